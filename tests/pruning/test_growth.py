"""Losses of candidates are those of masked models, one by one, and sites grow by the best of them."""

import pytest
import torch

from greedyprune.evaluation.predict import autocast
from greedyprune.pruning.growth import candidate_losses, grown
from greedyprune.pruning.transplant import masked, transplant
from greedyprune.sites import AttentionSite, HiddenSite, Reader

from ..helpers.engine import bits, shared, subject, unchanged

OUT = Reader("out")
ATTN = AttentionSite(name="attn", label="", part="", full=32, grain=4, heads=4, reader=OUT)
FFN = HiddenSite(name="ffn", label="", part="", full=40, readers=(OUT,))
WHOLE = AttentionSite(name="whole", label="", part="", full=32, grain=8, heads=1, head_dim=8, reader=OUT)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("dn_detr", "encoder.1.attn"),
        ("dn_detr", "decoder.0.cross"),
        ("dn_detr", "boxes.1"),
        ("dn_detr", "backbone.2.conv1"),
        ("deformable, two stages", "decoder.1.self"),
        ("deformable, two stages", "decoder.2.ffn"),
        ("deformable, two stages", "boxes.3.0"),
    ],
)
def test_candidate_losses_are_those_of_models_masked_one_by_one(kind: str, name: str) -> None:
    one = shared(kind)
    batches, site = one.batches(2), one.site(name)
    images, loss = one.activations(batches), one.family.loss(one.model)
    before = bits(images.bench.model)
    for start, limit in (((), 0), ((0, 5), 2)):
        losses = candidate_losses(images, site, start, [2, 30], limit=limit)
        for found, candidate in zip(losses.tolist(), [2, 30], strict=True):
            off = masked(one.family, one.model, {name: [*start, candidate]})
            own = [loss(one.answer(off, given), targets).item() for given, targets in batches.iterate()]
            assert found == pytest.approx(own[0] if limit else sum(own) / 2, rel=1e-3)
    assert unchanged(images.bench.model, before)


@pytest.mark.parametrize("name", ["encoder.1.attn", "decoder.0.cross"])
@pytest.mark.parametrize("start", [(), tuple(range(8, 16))])
def test_candidate_losses_of_heads_are_those_of_models_with_that_head(name: str, start: tuple[int, ...]) -> None:
    one = subject("deformable", whole_heads=True)
    batches, loss = one.batches(1), one.family.loss(one.model)
    losses = candidate_losses(one.activations(batches), one.site(name), start, [0, 24])
    for found, first in zip(losses.tolist(), (0, 24), strict=True):
        slim = transplant(one.family, one.model, {name: [*start, *range(first, first + 8)]})
        answer = one.answer(slim, batches.batches[0][0])
        assert found == pytest.approx(loss(answer, batches.batches[0][1]).item(), rel=1e-3)


def test_candidates_are_told_apart_in_mixed_precision() -> None:
    one = shared()
    site = one.site("decoder.0.ffn")
    images = one.activations(one.batches(1), one.part("decoder"), last_only=False)
    with autocast("cpu", "bf16", in_place=True):
        losses = candidate_losses(images, site, (), range(site.full))
    assert len(losses.unique()) > site.full // 2


def test_growth_takes_the_lowest_losses_and_one_channel_in_every_head() -> None:
    candidates = [1, 2, 9, 10, 17, 18, 25, 26]
    losses = torch.tensor([2.0, 1.0, 1.0, 1.0, 0.1, 0.2, 9.0, 8.0])
    assert grown(ATTN, (0, 8, 16, 24), candidates, losses, 4) == (0, 2, 8, 9, 16, 17, 24, 26)
    assert grown(FFN, (0,), [1, 2, 3], torch.tensor([3.0, 1.0, 2.0]), 2) == (0, 2, 3)
    losses = torch.tensor([0.3, 0.2, 0.2])
    assert grown(WHOLE, range(8, 16), [0, 16, 24], losses, 8) == (*range(8, 16), *range(16, 24))
    assert grown(WHOLE, (), [0, 16, 24], losses, 12) == (*range(16, 24), *range(24, 32))  # rounded up


@pytest.mark.parametrize("site", [ATTN, FFN, WHOLE], ids=lambda site: site.name)
def test_growth_to_the_end_gives_every_channel(site: AttentionSite | HiddenSite) -> None:
    kept: tuple[int, ...] = ()
    while len(kept) < site.full:
        candidates = [channel for channel in range(0, site.full, site.unit) if channel not in kept]
        more = grown(site, kept, candidates, torch.rand(len(candidates)), 8)
        assert len(kept) < len(more) <= len(kept) + 8
        assert set(kept) < set(more)
        kept = more
    assert kept == tuple(range(site.full))
