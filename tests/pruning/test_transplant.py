"""DESIGN law 1: the slim model answers as the masked one does, for every kind of site of every family."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from greedyprune import UserError
from greedyprune.pruning.kinds import kind_of
from greedyprune.pruning.transplant import kept_change, masked, shape_change, transplant
from greedyprune.sites import RatioSite, Site, installed

from ..helpers.engine import EVERY_KIND, GRID, Subject, bits, farthest, shared, subject, unchanged
from ..helpers.kept import kept_sets

SUBJECTS = {kind: shared(kind) for kind in EVERY_KIND}
WHOLE = ("dn_detr", "deformable encoder", "dn deformable", "deformable")
SUBJECTS |= {f"{kind}, whole heads": subject(kind, whole_heads=True) for kind in WHOLE}
ROUNDING = 1e-4
FEW = settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=15)


def compare(one: Subject, model: nn.Module, kept: dict[str, tuple[int, ...]]) -> nn.Module:
    """A slim model, which answers as the masked one."""
    slim = transplant(one.family, model, kept)
    assert farthest(one.answer(slim), one.answer(masked(one.family, model, kept))) < ROUNDING
    return slim


def compare_twice(kind: str, data: st.DataObject) -> None:
    """Any sites at once, and then any sites of the slim model."""
    one = SUBJECTS[kind]
    slim = compare(one, one.model, data.draw(kept_sets(one.sites)))
    compare(one, slim, data.draw(kept_sets(list(one.family.sites(slim)))))


@pytest.mark.parametrize(
    "kind",
    [
        "dn_detr",
        "patterns",
        "deformable encoder, level by level",
        "deformable",
        "dn deformable, two stages",
        "deformable, two stages",
        GRID,
        "dn_detr, whole heads",
        "deformable, whole heads",
    ],
)
@FEW
@given(data=st.data())
def test_slim_answers_as_masked_for_any_kept_sets_of_any_sites(kind: str, data: st.DataObject) -> None:
    compare_twice(kind, data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SUBJECTS)
@MANY
@given(data=st.data())
def test_slim_answers_as_masked_for_many_kept_sets_of_any_sites(kind: str, data: st.DataObject) -> None:
    compare_twice(kind, data)


def some_of(site: Site) -> tuple[int, ...]:
    """The last unit of every group; of a count all but the first item."""
    kind = kind_of(site)
    if site.kind == "count":
        return tuple(range(1, site.full))
    least = kind.first(site, site.grain if site.kind == "attention" else 3)
    return tuple(
        channel + site.group_width - site.unit if site.kind == "attention" else site.full - 1 - channel
        for channel in least
    )


SORTS = {
    "dn_detr": (),
    "deformable, two stages": pytest.mark.slow,
    "deformable encoder, level by level": pytest.mark.slow,
    GRID: (),
    "dn deformable, whole heads": pytest.mark.slow,
}
EACH = [pytest.param(kind, s.name, marks=marks) for kind, marks in SORTS.items() for s in SUBJECTS[kind].sorts()]


@pytest.mark.parametrize(("kind", "name"), EACH)
def test_every_sort_of_site_alone_is_lossless_and_its_pruning_is_felt_and_leaves_no_trace(kind: str, name: str) -> None:
    one = SUBJECTS[kind]
    before, site = bits(one.model), one.site(name)
    kept = {name: some_of(site)}
    slim = compare(one, one.model, kept)
    dense, answer = one.answer(), one.answer(slim)
    if dense.logits.shape == answer.logits.shape:
        assert farthest(dense.last(), answer.last()) > 1e-5
    else:
        assert site.kind == "count"
    with installed(one.model, kept_change(one.sites, one.model.state_dict(), kept)):
        assert farthest(one.answer(), answer) == 0
    assert unchanged(one.model, before)
    assert (
        next(each for each in one.family.sites(slim) if each.name == name).full == len(kept[name])
        if kept[name]
        else True
    )


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("dn_detr", ("boxes.0", "boxes.1")),
        ("deformable, two stages", ("boxes.3.0", "boxes.3.1", "boxes.0.0", "boxes.0.1")),
        (GRID, ("conv1", "conv2")),
    ],
)
def test_sites_that_share_a_tensor_are_cut_one_after_another(kind: str, names: Sequence[str]) -> None:
    one = SUBJECTS[kind]
    kept = {name: tuple(range(number, one.site(name).full, 3)) for number, name in enumerate(names)}
    slim = compare(one, one.model, kept)
    twice = one.model
    for name in reversed(names):
        twice = transplant(one.family, twice, {name: kept[name]})
    assert farthest(one.answer(slim), one.answer(twice)) < 1e-6


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_inner_channels_of_published_backbones_leave_losslessly(backbone: str) -> None:
    one = subject(backbone=backbone, enc_layers=1, dec_layers=1)
    with torch.no_grad():
        for module in one.model.backbone.modules():
            if hasattr(module, "running_var"):
                module.weight.uniform_(0.3, 0.8)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    sites = one.part("backbone")
    assert len(sites) == {"resnet18": 8, "resnet50": 32}[backbone]
    chained = [site.name for site in sites if site.name.startswith(("backbone.3.", "backbone.5."))]
    assert len(chained) == 2 * (1 + (backbone == "resnet50"))
    slim = compare(one, one.model, dict.fromkeys(chained, (1, 2, 5, 30)))
    assert farthest(one.answer(slim), one.answer()) > 1e-4


def test_pruning_twice_is_pruning_once() -> None:
    one = SUBJECTS["dn_detr"]
    first = transplant(
        one.family,
        one.model,
        {
            "encoder.0.attn": (0, 1, 8, 9, 16, 17, 24, 25),
            "decoder.1.ffn": range(20),
            "queries": (1, 3, 5, 7),
            "decoder.0": (),
        },
    )
    second = transplant(
        one.family,
        first,
        {"encoder.0.attn": (1, 3, 5, 7), "decoder.1.ffn": range(10), "queries": (0, 3), "decoder.2": ()},
    )
    once = transplant(
        one.family,
        one.model,
        {
            "encoder.0.attn": (1, 9, 17, 25),
            "decoder.1.ffn": range(10),
            "queries": (1, 7),
            "decoder.0": (),
            "decoder.2": (),
        },
    )
    assert farthest(one.answer(second), one.answer(once)) < 1e-5
    assert {n: t.shape for n, t in second.state_dict().items()} == {n: t.shape for n, t in once.state_dict().items()}


def test_a_wrong_softmax_scale_is_seen() -> None:
    one = SUBJECTS["dn_detr"]
    names = [site.name for site in one.sites if site.kind == "attention" and site.products]
    kept = {name: kind_of(one.site(name)).first(one.site(name), 8) for name in names}
    wrong = [replace(site, natural_scale=False) if site.name in names else site for site in one.sites]
    unfolded = one.family.slim(one.model, kept_change(wrong, one.model.state_dict(), kept))
    assert farthest(one.answer(unfolded), one.answer(masked(one.family, one.model, kept))) > 1e-3


class Keeping(nn.Module):
    """Keeps a share of its tokens: those with the largest first channel."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.share = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count = round(self.inner.share * x.shape[1])
        best = x[..., 0].topk(count, dim=1).indices
        return x.gather(1, best[..., None].expand(-1, -1, x.shape[2]))


def test_a_share_goes_into_its_attribute_and_comes_back() -> None:
    model, x = Keeping(), torch.randn(2, 12, 3)
    site = RatioSite(name="share", label="share", part="tokens", full=8, module="inner", attribute="share")
    for kept in ((0, 1, 2), range(8)):
        change = kept_change([site], model.state_dict(), {"share": kept})
        with installed(model, change):
            assert model.inner.share == len(kept) / 8
            assert model(x).shape == (2, round(12 * len(kept) / 8), 3)
        assert model.inner.share == 1.0
    masked_ = kind_of(site).masked_change(site, {}, (0, 1))
    assert masked_.settings == kind_of(site).kept_change(site, {}, (0, 1)).settings
    assert shape_change([site], {}, {"share": 4}).settings == {("inner", "share"): 0.5}


def test_a_head_that_leaves_takes_along_where_it_looks() -> None:
    one = SUBJECTS["dn deformable, whole heads"]
    slim = transplant(one.family, one.model, {"encoder.0.attn": range(8, 16), "decoder.1.cross": range(16, 32)})
    before, after = one.model.state_dict(), slim.state_dict()
    for name, heads in (("encoder.layers.0.self_attn", slice(1, 2)), ("decoder.layers.1.cross_attn", slice(2, 4))):
        for linear in ("sampling_offsets", "attention_weights"):
            key = f"transformer.{name}.{linear}.weight"
            assert torch.equal(after[key], before[key].unflatten(0, (4, -1))[heads].flatten(0, 1))


def test_a_slim_model_is_a_copy_in_the_same_mode_that_trains() -> None:
    one = subject()
    before = bits(one.model)
    kept = {"backbone.1.conv1": (0, 4, 7), "encoder.0.ffn": (1, 2), "queries": (0, 1, 2, 3), "decoder.1": ()}
    slim = transplant(one.family, one.model.train(), kept)
    assert slim.training
    assert all(parameter.requires_grad for parameter in slim.parameters())
    norm = slim.feature_extractor.blocks["body.layer1.1"].bn1
    mean = norm.running_mean.clone()
    one.family.answer(slim, one.family.inputs(slim, one.images)).logits.sum().backward()
    assert len(norm.weight.grad) == len(norm.running_mean) == 3
    assert not torch.equal(norm.running_mean, mean)
    assert unchanged(one.model, before)
    shared = {id(parameter) for parameter in one.model.parameters()} & {
        id(parameter) for parameter in slim.parameters()
    }
    assert not shared


@pytest.mark.parametrize(
    ("kind", "name", "kept", "words"),
    [
        ("dn_detr", "encoder.1.attn", (0, 1, 2, 3, 8), "encoder.1.attn: heads keep different numbers"),
        ("dn_detr", "encoder.1.attn", (), "encoder.1.attn keeps 0 of 32; it needs at least 4"),
        ("dn_detr", "encoder.1.attn", (0, 8, 16, 32), "different numbers of 0..31"),
        ("dn_detr", "encoder.1.attn", (0, 0, 8, 16), "different numbers of 0..31"),
        ("dn_detr", "boxes.1", (), "boxes.1 keeps 0 of 32; it needs at least 1"),
        ("dn_detr", "queries", (), "queries keeps 0 of 9; it needs at least 1"),
        ("dn_detr", "queries", (-1, 3), "queries: what is kept must be different numbers of 0..8"),
        ("dn_detr", "decoder.1", (1,), "decoder.1: what is kept must be different numbers of 0..0"),
        ("dn_detr", "decoder.7", (0,), "decoder.7 is no site of the model; its sites are backbone.0.conv1, "),
        (GRID, "conv2", (24,), "conv2: what is kept must be different numbers of 0..23"),
        (
            "dn_detr, whole heads",
            "decoder.1.cross",
            (*range(8), *range(16, 23)),
            "a part of head 2; its 8 channels stay",
        ),
    ],
)
def test_kept_sets_that_do_not_fit_are_refused(kind: str, name: str, kept: Sequence[int], words: str) -> None:
    one = SUBJECTS[kind]
    with pytest.raises(UserError) as refused:
        transplant(one.family, one.model, {name: kept})
    assert words in str(refused.value)


def test_one_of_a_group_of_layers_stays() -> None:
    one = SUBJECTS["deformable"]
    with pytest.raises(
        UserError, match=r"none of the decoder layers is kept; at least one of decoder\.0, decoder\.1, decoder\.2 stays"
    ):
        transplant(one.family, one.model, {f"decoder.{layer}": () for layer in range(3)})
    slim = transplant(
        one.family,
        one.model,
        {f"{part}.{layer}": () for part, layer in (("encoder", 0), ("encoder", 1), ("decoder", 0), ("decoder", 2))},
    )
    assert one.answer(slim).earlier == ()
