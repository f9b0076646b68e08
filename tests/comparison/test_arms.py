import pytest

from greedyprune.comparison.arms import parse_arms
from greedyprune.errors import UserError


def names(text):
    return [arm.name for arm in parse_arms(text)]


def test_ranges_are_exact_and_in_the_order_given():
    assert names("filter_l1:0.1..0.5, layers:1..3,basis:0.5") == [
        *(f"filter_l1:0.{n}" for n in range(1, 6)),
        *(f"layers:{n}" for n in (1, 2, 3)),
        "basis:0.5",
    ]
    assert names("weight:0.1..0.9/0.4,weight:0.5") == ["weight:0.1", "weight:0.5", "weight:0.9"]
    assert [type(arm.amount) for arm in parse_arms("layers:1..2,weight:0..0.1")] == [int, int, float, float]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown"),
        ("cut:0.5", "'cut' is unknown; choose one of filter_l1"),
        ("weight", "the amount after weight: must be"),
        ("weight:0.5..0.1", "is a range of nothing"),
        ("weight:0.1..0.5/0", "is a range of nothing"),
        ("weight:0.1..0.5/x", "is no step"),
        ("weight:0.1..1.5", "must be a number of at least 0"),
        ("layers:1..2/0.5", "must be a whole number"),
        ("weight:0..0.9/0.00001", "asks for 90001 amounts"),
        ("weight:nan..0.5", "must be a number"),
    ],
)
def test_what_cannot_be_compared_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        parse_arms(text)
