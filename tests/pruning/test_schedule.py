"""How sites are ordered, aimed and grown."""

import pytest
import torch

from greedyprune import UserError
from greedyprune.pruning.kept import group_counts
from greedyprune.pruning.schedule import (
    KindOptions,
    ScheduleOptions,
    draw_candidates,
    grow,
    is_done,
    order_sites,
    site_target,
    skips_full,
)
from greedyprune.pruning.sites import Site

ATTN = Site("encoder.0.attn", 32, 4, ())
FFN = Site("encoder.0.ffn", 40, 1, ())
CROSS = Site("decoder.0.cross", 32, 4, ())
WHOLE = Site("decoder.1.self", 32, 1, (), unit=8)


def options(schedule: str = "gp", **kind) -> ScheduleOptions:
    values = {"map_tol": 0.02, "skip_eval_converge": 0.05, "num_evaluate": 8, **kind}
    return ScheduleOptions(schedule, KindOptions(**values, step=4), KindOptions(**values, step=16), 0.01, 3)


def test_gp_goes_front_to_back_and_modular_takes_all_attention_first() -> None:
    sites = [ATTN, FFN, CROSS]
    assert order_sites(sites, "gp") == sites
    assert order_sites(sites, "modular") == [ATTN, CROSS, FFN]


def test_targets_fall_as_the_schedule_says() -> None:
    sites = [ATTN, FFN, CROSS]
    assert site_target(options(), sites, 0, 0.5) == 0.5
    assert site_target(options(), sites, 2, 0.5) == pytest.approx(0.5 * 0.98)
    assert site_target(options("modular"), sites, 2, 0.5) == pytest.approx(0.5 * 0.95**2)


def test_a_site_is_done_at_its_tolerance_and_skips_below_its_share() -> None:
    assert is_done(options(), ATTN, 0.5, 0.4901)
    assert not is_done(options(), ATTN, 0.5, 0.4899)
    assert not is_done(options(), ATTN, 0.5, None)
    assert skips_full(options(), ATTN, 0.5, 0.474)
    assert not skips_full(options(), ATTN, 0.5, 0.476)


@pytest.mark.parametrize("site", [ATTN, FFN])
def test_candidates_are_new_channels_drawn_evenly_and_depend_on_the_round_alone(site: Site) -> None:
    kept = tuple(g * site.group_width for g in range(site.groups))
    drawn = draw_candidates(options(), site, kept, 4)
    assert drawn == draw_candidates(options(), site, kept, 4)
    assert drawn != draw_candidates(options(), site, kept, 5)
    assert not set(drawn) & set(kept)
    assert len(set(group_counts(site, drawn))) == 1
    assert len(drawn) == (8 if site is ATTN else 16)  # never fewer than a round adds
    everything = draw_candidates(options(num_evaluate=0), site, kept, 4)
    assert everything == [c for c in range(site.width) if c not in kept]


def test_growth_takes_the_lowest_losses_and_one_channel_in_every_head() -> None:
    candidates = [1, 2, 9, 10, 17, 18, 25, 26]
    losses = torch.tensor([2.0, 1.0, 1.0, 1.0, 0.1, 0.2, 9.0, 8.0])
    assert grow(ATTN, (0, 8, 16, 24), candidates, losses, 4) == (0, 2, 8, 9, 16, 17, 24, 26)
    assert grow(FFN, (0,), [1, 2, 3], torch.tensor([3.0, 1.0, 2.0]), 2) == (0, 2, 3)


def test_whole_heads_are_drawn_and_grown_head_by_head() -> None:
    drawn = [draw_candidates(options(num_evaluate=2), WHOLE, range(8, 16), round_) for round_ in range(8)]
    assert {tuple(each) for each in drawn} == {(0, 16), (0, 24), (16, 24)}
    assert draw_candidates(options(num_evaluate=0), WHOLE, range(8, 16), 0) == [0, 16, 24]
    losses = torch.tensor([0.3, 0.2, 0.2])
    assert grow(WHOLE, range(8, 16), [0, 16, 24], losses, 8) == (*range(8, 16), *range(16, 24))
    assert grow(WHOLE, (), [0, 16, 24], losses, 12) == (*range(16, 24), *range(24, 32))  # rounded up


def test_growth_to_the_end_gives_every_channel() -> None:
    for site, step in ((ATTN, 4), (FFN, 16)):
        kept: tuple[int, ...] = ()
        for round_ in range(40):
            if len(kept) + step >= site.width:
                break
            candidates = draw_candidates(options(), site, kept, round_)
            kept = grow(site, kept, candidates, torch.rand(len(candidates)), step)
            assert len(kept) == (round_ + 1) * step
            assert len(set(group_counts(site, kept))) == 1


@pytest.mark.parametrize(
    "bad", [{"map_tol": 1.0}, {"map_tol": -0.1}, {"num_evaluate": -1}, {"skip_eval_converge": 2.0}]
)
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        options(**bad)
