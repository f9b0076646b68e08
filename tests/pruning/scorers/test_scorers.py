"""Every scorer orders every channel site of every family, and says in one line what it lacks."""

from collections.abc import Sequence

import pytest
import torch

from greedyprune import UserError
from greedyprune.pruning import scorers
from greedyprune.pruning.cutter import Cutter
from greedyprune.pruning.kinds.channels import KeptCut
from greedyprune.pruning.scorers import SCORERS, Given
from greedyprune.pruning.transplant import masked
from greedyprune.sites import AttentionSite, HiddenSite, Site

from ...helpers.engine import GRID, PLENTY, Subject, bits, farthest, shared, subject, unchanged

FAST = [scorer for scorer in SCORERS if scorer != "exact"]
KINDS = ("dn_detr", "deformable, two stages", "deformable encoder, level by level")


def channel_sites(sites: Sequence[Site]) -> list[Site]:
    return [site for site in sites if isinstance(site, (AttentionSite, HiddenSite))]


def given_by(one: Subject, sites: list[Site] | None = None, images: int = 1, room: int = PLENTY) -> Given:
    return scorers.given(one.activations(one.batches(images), room=room), one.sites if sites is None else sites)


def halves(sites: list[Site]) -> dict[str, int]:
    return {site.name: max(site.grain, site.full // 2 // site.grain * site.grain) for site in sites}


def check_order(site: Site, order: torch.Tensor) -> None:
    units = site.full // site.unit
    assert order.shape == (site.groups, units // site.groups), site.name
    assert sorted(order.flatten().tolist()) == list(range(units))
    assert all(unit // (units // site.groups) == group for group, row in enumerate(order.tolist()) for unit in row)


@pytest.mark.parametrize("kind", KINDS)
def test_every_scorer_orders_every_channel_site_of_a_detr_and_leaves_it_as_it_was(kind: str) -> None:
    one = shared(kind)
    sites = channel_sites(one.sites)
    assert {site.part for site in sites} == {"backbone", "encoder", "decoder", "heads"}
    given = given_by(one)
    before = bits(given.bench.model)
    orders = {scorer: {site.name: given.order(site, scorer) for site in sites} for scorer in FAST if scorer != "basis"}
    for scorer in orders:
        for site in sites:
            check_order(site, orders[scorer][site.name])
    # A row that says `magnitude` is not what the closed form would do, in the backbone either.
    for part in ("backbone", "encoder", "decoder", "heads"):
        names = [site.name for site in sites if site.part == part and site.full > 8]
        for one_, other in (("magnitude", "select"), ("magnitude", "taylor"), ("select", "random")):
            assert any(not torch.equal(orders[one_][name], orders[other][name]) for name in names), (part, one_)
    assert unchanged(given.bench.model, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in given.bench.model.modules())


@pytest.mark.parametrize("scorer", FAST)
def test_every_scorer_cuts_every_sort_of_site_and_a_search_may_ask_again(scorer: str) -> None:
    one = shared()
    sites = channel_sites(one.sorts())
    widths = halves(sites)
    again = given_by(one, sites)
    for refit in (True, False):
        given = given_by(one, sites)
        cutter = Cutter(given, scorer, refit)
        change = cutter.change(widths)
        assert all(torch.isfinite(tensor).all() for tensor in change.tensors.values())
        slim = one.family.slim(one.model, change)
        assert {site.name: site.full for site in one.family.sites(slim) if site.name in widths} == widths
        twice = Cutter(again, scorer, refit).change(widths)
        assert all(torch.equal(tensor, twice.tensors[name]) for name, tensor in change.tensors.items())
    kept = {n: cut.kept(widths[n]) for n, cut in cutter.cuts.items() if isinstance(cut, KeptCut)}
    assert len(kept) == (len(sites) if scorer != "basis" else sum(isinstance(site, HiddenSite) for site in sites))
    if scorer != "basis":  # of convolutions a constant goes into what reads them
        own = {site.name for site in sites if isinstance(site, AttentionSite) or site.sort != "conv"}
        slim = one.family.slim(one.model, cutter.change({name: widths[name] for name in own}))
        off = masked(one.family, one.model, {name: kept[name] for name in own})
        assert farthest(one.answer(slim), one.answer(off)) < 1e-4


@pytest.mark.parametrize("scorer", FAST)
def test_every_scorer_takes_whole_heads_where_they_leave_whole(scorer: str) -> None:
    one = subject("dn deformable", whole_heads=True)
    sites = [site for site in one.sites if isinstance(site, AttentionSite)]
    cutter = Cutter(given_by(one, sites), scorer, refit=False)
    for site in sites:
        cut = cutter.cuts[site.name]
        assert isinstance(cut, KeptCut)
        kept = cut.kept(16)
        assert len(site.units(kept)) * site.unit == len(kept) == 16


@pytest.mark.parametrize("scorer", FAST)
def test_the_grid_detector_is_ordered_by_what_needs_no_loss_and_the_rest_is_refused(scorer: str) -> None:
    one = shared(GRID)
    given = given_by(one, images=2)
    if scorer in ("taylor", "sensitivity", "sensitivity_weight"):
        with pytest.raises(UserError) as refused:
            Cutter(given, scorer).change({"conv1": 8})
        words = f"{scorer} needs a loss, and a grid detector has none here; choose basis, select or magnitude"
        assert str(refused.value) == words
        return
    slim = one.family.slim(one.model, Cutter(given, scorer).change({"conv1": 8, "conv2": 12}))
    assert slim.conv2.weight.shape == (12, 8, 3, 3)
    for site in one.sites:
        check_order(site, given.order(site, "select" if scorer == "basis" else scorer))


def test_the_exact_score_is_refused_where_there_is_no_loss() -> None:
    one = shared(GRID)
    with pytest.raises(UserError, match="the exact score needs a loss, and a grid detector has none here"):
        given_by(one).order(one.site("conv1"), "exact")


def test_the_exact_score_orders_every_unit_and_what_is_measured_afterwards_is_the_same() -> None:
    one = subject(whole_heads=True, enc_layers=1, dec_layers=1, ffn_dim=8)
    sites = [one.site(name) for name in ("encoder.0.attn", "decoder.0.cross", "decoder.0.ffn")]
    given, fresh = given_by(one, sites), given_by(one, sites)
    for site in sites:
        check_order(site, given.order(site, "exact"))
    for site in sites:
        for mine, theirs in zip(given.moments[site.name].readers, fresh.moments[site.name].readers, strict=True):
            assert torch.allclose(mine.rows.covariance, theirs.rows.covariance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("room", [0, PLENTY])
def test_orders_do_not_depend_on_what_is_cached(room: int) -> None:
    one = shared("deformable, two stages")
    sites = one.part("decoder")[:3]
    few, plenty = given_by(one, sites, room=room), given_by(one, sites)
    for site in sites:
        assert torch.equal(few.order(site, "taylor"), plenty.order(site, "taylor"))


def test_magnitude_looks_at_weights_not_at_statistics_nor_at_where_a_head_looks() -> None:
    one = subject()
    block = one.model.feature_extractor.blocks["body.layer2.1"]
    with torch.no_grad():
        for tensor in (block.conv1.weight, block.bn1.weight, block.bn1.bias):
            tensor[9:] *= 1e-3
    block.bn1.running_mean[9:], block.bn1.running_var[9:] = 50.0, 200.0
    site = one.site("backbone.3.conv1")
    assert sorted(given_by(one, [site]).order(site, "magnitude")[0, :9].tolist()) == list(range(9))
    one = subject("dn deformable", whole_heads=True)
    attention = one.model.transformer.encoder.layers[1].self_attn
    with torch.no_grad():
        for head in (0, 3):
            for tensor in attention.value_proj.parameters():
                tensor[head * 8 : head * 8 + 8] *= 1e-4
        attention.sampling_offsets.bias[-64:] = 1e6
    site = one.site("encoder.1.attn")
    assert sorted(given_by(one, [site]).order(site, "magnitude")[0, :2].tolist()) == [1, 2]


def test_random_orders_depend_on_the_seed_and_the_name_alone() -> None:
    one = shared(GRID)
    images = one.activations()
    first, again = (scorers.given(images, one.sites[::step], seed=4) for step in (1, -1))
    other = scorers.given(images, one.sites, seed=5)
    for site in one.sites:
        assert torch.equal(first.order(site, "random"), again.order(site, "random"))
        assert not torch.equal(first.order(site, "random"), other.order(site, "random"))


def test_one_image_and_dead_channels_leave_finite_weights() -> None:
    one = subject()
    with torch.no_grad():
        for name, parameter in one.model.named_parameters():
            if name.endswith(("linear1.weight", "linear1.bias", "sa_v_proj.weight", "sa_v_proj.bias")):
                parameter[:] = 0
            if "ref_point_head.layers.0" in name:
                parameter[7:] = 0
    sites = one.part("encoder", "decoder", "heads")
    given = given_by(one, sites)
    for scorer in ("basis", "select"):
        change = Cutter(given, scorer).change({site.name: max(site.grain, site.full // 4) for site in sites})
        assert all(tensor.isfinite().all() and tensor.abs().max() < 1e4 for tensor in change.tensors.values())


def test_a_site_of_an_unknown_kind_is_an_error() -> None:
    one = shared(GRID)

    class Other(HiddenSite):
        pass

    site = Other(**one.sites[0].__dict__)
    with pytest.raises(TypeError, match="site conv1 is a Other, which no kind is registered for"):
        Cutter(given_by(one, [site]), "random").change({"conv1": 4})
