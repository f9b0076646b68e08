"""Sites know their groups, units and values."""

import pytest

from greedyprune import UserError
from greedyprune.sites import AttentionSite, CountSite, FlatLayout, HiddenSite, Reader, Slice

OUT = Reader("out")
ABOUT = {"part": "p", "label": "the site"}
HEADS = AttentionSite(name="heads", full=12, grain=3, least=3, heads=3, reader=OUT, **ABOUT)
WHOLE = AttentionSite(name="whole", full=12, grain=4, least=4, heads=1, head_dim=4, reader=OUT, **ABOUT)
FFN = HiddenSite(name="ffn", full=10, readers=(OUT,), **ABOUT)
LAYER = CountSite(name="layer", full=1, least=0, **ABOUT)


def test_channels_of_heads_leave_one_by_one_or_all_together() -> None:
    assert (HEADS.groups, HEADS.unit, HEADS.group_width) == (3, 1, 4)
    assert (WHOLE.groups, WHOLE.unit, WHOLE.group_width) == (1, 4, 12)
    assert HEADS.units((5, 1)) == [1, 5]
    assert WHOLE.units((0, 1, 9)) == [0, 2]
    assert WHOLE.pruned((0, 9)).tolist() == [False, True, False]
    assert HEADS.pruned(range(10)).tolist() == [False] * 10 + [True] * 2


def test_products_are_those_that_may_get_another_basis() -> None:
    slices = (Slice("q", 0, ("query",), (0,)), Slice("pos", 0, ("query",), (1,)), Slice("k", 0, ("key",), (0, 1)))
    about = {"name": "a", "full": 12, "reader": OUT, "slices": slices, **ABOUT}
    assert AttentionSite(heads=3, **about).products == 2
    assert AttentionSite(heads=1, head_dim=4, **about).products == 0
    assert HEADS.products == 0


def test_units_are_found_in_dimensions_whatever_their_blocks_and_places() -> None:
    packed = Slice("in", 0, ("query", "key", "value"))
    assert HEADS.positions(packed, 36)[2].tolist() == [2, 14, 26]
    assert WHOLE.positions(Slice("out", 1, ("output",)), 12)[2].tolist() == [8, 9, 10, 11]
    # What a head has beside its channels is sliced as they are.
    assert WHOLE.positions(Slice("offsets", 0, ("sampling",)), 3 * 16).shape == (3, 16)
    pairs = HiddenSite(name="pairs", label="", part="", full=4, grain=2, least=2, together=2, readers=(OUT,))
    assert pairs.units((2, 3)) == [1]
    shared = Slice("out.weight", 1, ("output",), places=((7, 9), (3, 5)))
    assert pairs.positions(shared, 20).tolist() == [[7, 9], [3, 5]]


def test_readers_and_slices_name_their_tensors() -> None:
    assert OUT.weight == "out.weight"
    assert Slice("x", 1, ("output",)).output
    assert not Slice("x", 0, ("hidden",)).output


LAYOUT = FlatLayout([HEADS, WHOLE, FFN, LAYER])
FULL = {"heads": 12, "whole": 12, "ffn": 10, "layer": 1}


@pytest.mark.parametrize(
    ("given", "widths"),
    [
        ({}, {}),
        ('{"ffn": 3}', {"ffn": 3}),
        ({"heads": 6, "whole": 4, "layer": 0}, {"heads": 6, "whole": 4, "layer": 0}),
        (FULL, {}),
    ],
)
def test_flat_lists_are_read_and_written(given: object, widths: dict[str, int]) -> None:
    parsed = LAYOUT.parse(given)
    assert parsed == FULL | widths
    assert LAYOUT.to_list(parsed) == widths
    assert LAYOUT.parse(LAYOUT.to_list(parsed)) == parsed


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("[1", "--cfgs is no JSON; expected {site: width}"),
        ("[" * 100_000, "--cfgs is no JSON"),
        ([1, 2], "--cfgs is a list, expected {site: width}"),
        ({"fnn": 3}, "--cfgs names site 'fnn'; the sites are heads, whole, ffn, layer"),
        ({"ffn": 0}, "--cfgs: the site"),
        ({"ffn": 11}, "--cfgs: the site"),
        ({"ffn": 2.5}, "--cfgs: the site"),
        ({"ffn": True}, "--cfgs: the site"),
        ({"heads": 7}, "--cfgs: the site width 7 is not a multiple of 3"),
    ],
)
def test_flat_lists_that_do_not_fit_are_refused_in_a_line(given: object, words: str) -> None:
    with pytest.raises(UserError) as refused:
        LAYOUT.parse(given)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500
