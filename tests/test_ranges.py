"""Numbers that users and files give are held against what their type allows."""

from argparse import ArgumentTypeError
from dataclasses import dataclass

import pytest

from greedyprune.errors import UserError
from greedyprune.ranges import (
    AMOUNT,
    COUNT,
    SEED,
    SHARE_BELOW_ONE,
    Count,
    Share,
    check_ranges,
    check_types,
    shown,
)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "nan", "x", "", "1e3", str(2**63), "9" * 5000])
def test_a_count_refuses_what_is_no_whole_number_of_at_least_one(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="whole number of at least 1"):
        COUNT.parse(text)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-0.1", "1e999", "0x1"])
def test_an_amount_refuses_what_is_no_finite_number(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="a number of at least 0"):
        AMOUNT.parse(text)


def test_the_ends_of_a_range_are_in_it_unless_it_says_below_or_above() -> None:
    assert [SEED.holds(value) for value in (0, 2**63 - 1, 2**63)] == [True, True, False]
    assert [SHARE_BELOW_ONE.holds(value) for value in (0.0, 1)] == [True, False]
    assert str(SHARE_BELOW_ONE) == "a number of at least 0 and below 1"


@pytest.mark.parametrize("value", [True, "1", None, [1], 1 + 0j, 10**400])
def test_a_float_range_takes_numbers_alone(value: object) -> None:
    assert not AMOUNT.holds(value)


@dataclass(frozen=True)
class _Options:
    images: Count = 1
    share: Share | None = None

    def __post_init__(self) -> None:
        check_ranges(self, lambda name: f"--{name}")


def test_a_dataclass_states_its_ranges_in_its_types() -> None:
    _Options(3, 0.5)
    with pytest.raises(UserError, match=r"--images is 0, it must be a whole number of at least 1"):
        _Options(0)
    with pytest.raises(UserError, match=r"--share is 1\.5, it must be a number of at least 0 and at most 1"):
        _Options(1, 1.5)


@dataclass(frozen=True)
class _Typed:
    fast: bool = False
    name: str = "x"
    other: str | None = None
    images: Count = 1

    def __post_init__(self) -> None:
        check_types(self, "option {}".format)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("fast", 1, "option fast is 1, it must be true or false"),
        ("fast", None, "option fast is None, it must be true or false"),
        ("name", True, "option name is True, it must be a text"),
        ("other", ["x"], "option other is a list, it must be a text"),
        ("images", None, "option images is missing"),
    ],
)
def test_switches_and_texts_are_held_against_their_types(name: str, value: object, words: str) -> None:
    assert _Typed(True, "y", None, 2).other is None
    with pytest.raises(UserError, match=words):
        _Typed(**{name: value})  # type: ignore[arg-type]


def test_a_value_is_shown_in_a_few_characters_and_what_holds_others_by_its_type() -> None:
    doubled: tuple[object, ...] = ()
    for _ in range(60):
        doubled = (doubled, doubled)
    shortened = [shown(value) for value in (3, 10**5000, "a" * 99, float("nan"), doubled, {"a": 1}, None)]
    assert shortened == ["3", "a huge number", f"'{'a' * 35}...", "nan", "a tuple", "a dict", "None"]
