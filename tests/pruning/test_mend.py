"""Mending brings a slim model's answers nearer to the dense one's, and touches nothing else."""

from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from greedyprune.pruning import scorers
from greedyprune.pruning.bench import Activations, Bench, Room
from greedyprune.pruning.cutter import Cutter
from greedyprune.pruning.damage import divergence
from greedyprune.pruning.mend import Mender, still
from greedyprune.pruning.pairing import counterpart
from greedyprune.pruning.transplant import shape_change
from greedyprune.sites import Change, Site

from ..helpers.engine import GRID, PLENTY, Batches, Subject, bits, shared, subject, unchanged

# Which sites a search may change, and which of them this model has cut.
CASES: dict[str, tuple[tuple[str, ...], dict[str, int]]] = {
    "decoder": (("decoder",), {"decoder.0.self": 8, "decoder.1.cross": 8, "decoder.2.ffn": 6}),
    "channels": (("encoder", "decoder"), {"encoder.0.attn": 16, "encoder.1.ffn": 10, "decoder.1.cross": 8}),
    "layers and queries": (
        ("encoder", "decoder", "layers", "queries"),
        {"encoder.1": 0, "decoder.1": 0, "queries": 5, "decoder.2.ffn": 10},
    ),
    "heads of the decoder": (("decoder", "heads"), {"decoder.ref_point_head": 8, "boxes.1": 10}),
    "queries": (("queries",), {"queries": 4}),
    "the last layer": (("layers",), {"decoder.2": 0}),
}
# The same for detectors whose layers have heads of their own.
OWN = CASES | {"heads of the decoder": (("heads",), {"boxes.1.0": 8, "boxes.2.1": 10})}


class Again:
    """Images over and over, from the first one whenever they are iterated over."""

    def __init__(self, batches: Batches) -> None:
        self.images = [images for images, _ in batches.iterate()]

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        return cycle(self.images)


def cut(one: Subject, sites: Sequence[Site], widths: dict[str, int]) -> Change:
    """A change by weights alone, and half a backbone where that is asked for."""
    kept = {site.name: widths.get(site.name, site.full) for site in sites}
    return shape_change(sites, one.model.state_dict(), kept)


def sites_of(one: Subject, parts: Sequence[str]) -> list[Site]:
    return [site for site in one.sites if site.part in parts and not site.name.startswith("encoder.query_scale")]


def mend_cached(
    one: Subject, parts: Sequence[str], widths: dict[str, int], steps: int, room: int = PLENTY, cache: int = PLENTY
) -> tuple[nn.Module, list[str], Change]:
    sites = sites_of(one, parts)
    change, images = cut(one, sites, widths), one.activations(one.batches(2), sites, cache)
    slim = one.family.slim(one.model, change)
    learned = Mender(one.family, one.model, slim, change, steps, room=room).on_cached(images)
    return slim, learned, change


def damage(one: Subject, slim: nn.Module, change: Change) -> float:
    """How far the answers are from the dense ones, of the queries that are left."""
    found = 0.0
    for images, _ in one.batches(2).iterate():
        dense = counterpart(one.answer(images=images), change.pairing)
        found += divergence(one.answer(slim, images), dense).sum().item()
    return found


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        pytest.param(kind, case, marks=() if case in quick else pytest.mark.slow)
        for kind, quick in {
            "dn_detr": ("channels", "heads of the decoder", "the last layer"),
            "deformable": ("layers and queries", "heads of the decoder"),
            "deformable, two stages": ("heads of the decoder", "queries"),
        }.items()
        for case in CASES
    ],
)
def test_what_comes_after_the_origin_learns_and_nothing_else(kind: str, case: str) -> None:
    one = subject(kind)
    parts, widths = (OWN if "stages" in kind else CASES)[case]
    if kind == "deformable" and case == "heads of the decoder":
        widths = {"boxes.0": 8, "boxes.1": 10}
    one.model.backbone.requires_grad_(False)
    own = bits(one.model)
    takes = [parameter.requires_grad for parameter in one.model.parameters()]
    before = bits(one.family.slim(one.model, cut(one, sites_of(one, parts), widths)))
    slim, learned, change = mend_cached(one, parts, widths, 2)
    changed = {name for name, tensor in slim.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed <= {*learned}
    assert len(changed) > len(learned) / 2
    assert not any(name.startswith(("backbone", "input_proj")) for name in learned)
    outside = {"heads of the decoder": "transformer.encoder", "queries": "transformer.encoder"}.get(case, "backbone")
    assert not any(name.startswith(outside) for name in changed)
    assert unchanged(one.model, own)
    assert [parameter.requires_grad for parameter in one.model.parameters()] == takes
    assert all(p.grad is None for model in (one.model, slim) for p in model.parameters())
    frozen = {name for name, parameter in slim.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in slim.named_parameters() if name.startswith("backbone")}
    assert damage(one, slim, change) < 1e6


@pytest.mark.parametrize(
    "case",
    [
        "decoder",
        "layers and queries",
        *(pytest.param(case, marks=pytest.mark.slow) for case in ("channels", "queries")),
    ],
)
def test_a_slim_model_answers_more_like_the_dense_one(case: str) -> None:
    one = subject("deformable, refined")
    parts, widths = OWN[case]
    slim, _, change = mend_cached(one, parts, widths, 12)
    unmended = one.family.slim(one.model, cut(one, sites_of(one, parts), widths))
    assert damage(one, slim, change) < 0.97 * damage(one, unmended, change)


@pytest.mark.parametrize("kind", ["deformable", GRID])
def test_few_steps_break_nothing(kind: str) -> None:
    one = shared(kind)
    sites = one.part("convolutions") if kind == GRID else sites_of(one, ("decoder",))
    images = one.activations(one.batches(2), sites)
    change = Cutter(scorers.given(images, sites), "select").change({site.name: site.full // 2 for site in sites})
    before = damage(one, one.family.slim(one.model, change), change)
    for steps in (0, 1, 2, 10):
        slim = one.family.slim(one.model, change)
        Mender(one.family, one.model, slim, change, steps).on_cached(images)
        assert damage(one, slim, change) <= 1.05 * before
        assert all(tensor.isfinite().all() for tensor in slim.state_dict().values())


@pytest.mark.parametrize(
    ("kind", "case"),
    [("dn_detr", "layers and queries"), pytest.param("deformable, two stages", "decoder", marks=pytest.mark.slow)],
)
def test_it_is_a_pure_function_whatever_the_room_and_whatever_is_cached(
    kind: str, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    written = []
    monkeypatch.setattr(torch, "save", lambda *given, save=torch.save: (written.append(given[1]), save(*given)))
    one = subject(kind)
    parts, widths = OWN[case]
    first, learned, _ = mend_cached(one, parts, widths, 2)
    assert not written
    for room, cache in ((PLENTY, 0), (50_000, 150_000)):
        again, names, _ = mend_cached(one, parts, widths, 2, room, cache)
        assert names == learned
        assert unchanged(again, bits(first)), (room, cache)
        assert bool(written) == (room < PLENTY)
        assert not list(tmp_path.iterdir())
        written.clear()


@pytest.mark.slow
def test_a_cut_backbone_is_mended_on_endless_images_to_the_same_bits_whatever_the_room() -> None:
    one = subject("deformable")
    widths = {"backbone.1.conv1": 24, "backbone.4.conv1": 72, "encoder.0.ffn": 10}
    change, images, own = cut(one, one.sites, widths), Again(one.batches(2)), bits(one.model)
    slim, twin = (one.family.slim(one.model, change) for _ in range(2))
    before, far = bits(slim), damage(one, slim, change)
    learned = Mender(one.family, one.model, slim, change, 6).on_images(images, 2)
    assert damage(one, slim, change) < 0.99 * far
    changed = {name for name, tensor in slim.state_dict().items() if not torch.equal(tensor, before[name])}
    for name in ("backbone.0.body.layer1.1.conv1.weight", "transformer.encoder.layers.0.linear1.weight"):
        assert name in learned
        assert name in changed
    assert not changed & {name for name, _ in slim.named_buffers()}  # statistics of norms stay
    assert unchanged(one.model, own)
    assert Mender(one.family, one.model, twin, change, 6, room=0).on_images(images, 2) == learned
    assert unchanged(twin, bits(slim))


@pytest.mark.parametrize("endless", [False, True])
def test_a_family_without_blocks_is_mended_all_together(endless: bool) -> None:
    one = subject(GRID)
    given = scorers.given(one.activations(), one.sites)
    change = Cutter(given, "select").change({"conv1": 8, "conv2": 12})
    told = []
    slims = []
    for _ in range(2):
        slim = one.family.slim(one.model, change)
        before = damage(one, slim, change)
        watcher = type("Told", (), {"doing": lambda self, text: told.append(text), "progress": lambda self, *_: None})()
        mender = Mender(one.family, one.model, slim, change, 60, watcher)
        learned = mender.on_images(Again(one.batches()), 3) if endless else mender.on_cached(given.images)
        assert learned == [name for name, _ in slim.named_parameters()]
        assert damage(one, slim, change) < 0.97 * before
        slims.append(slim)
    assert unchanged(slims[0], bits(slims[1]))
    assert told == ["mending all together"] * 2


def test_a_model_takes_gradients_again_as_it_did() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    with still(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        model[0].weight.requires_grad_(True)
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, False, True, True]


def test_only_the_sites_of_a_bench_say_where_what_learns_begins() -> None:
    one = subject()
    change = cut(one, one.sites, {"decoder.2.ffn": 10})
    slim = one.family.slim(one.model, change)
    batches = one.batches()
    bench = Bench(one.family, one.model, [one.site("decoder.2.ffn")], batches)
    images = Activations(bench, batches, Room(PLENTY), last_only=False)
    learned = Mender(one.family, one.model, slim, change, 2).on_cached(images)
    assert "transformer.decoder.layers.2.linear1.weight" in learned
    assert not any("layers.1." in name or "self_attn" in name for name in learned)
