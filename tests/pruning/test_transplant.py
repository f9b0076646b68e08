"""DESIGN law 1: the slim model answers as the masked one does."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greedyprune import UserError, build_model
from greedyprune.models import MODELS as REGISTRY
from greedyprune.models.registry import model_name
from greedyprune.pruning.kept import kept_by_magnitude, kept_from_masks
from greedyprune.pruning.sites import Site, list_sites
from greedyprune.pruning.transplant import masked, shrink_site, slim_site, transplant


def detector(activation: str = "prelu", name: str = "dn_detr", **options):
    torch.manual_seed(0)
    shape = {"hidden_dim": 32, "heads": 4, "enc_layers": 2, "dec_layers": 2, "ffn_dim": 40, "num_queries": 12}
    model = build_model(name, num_classes=5, backbone="small", activation=activation, **{**shape, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


MODELS = {name: detector(name) for name in ("prelu", "relu", "gelu")} | {
    "deformable encoder": detector("prelu", "dn_deformable_encoder_detr", num_feature_levels=3),
    "dn deformable": detector("relu", "dn_deformable_detr"),
    "dn deformable, two stages": detector("gelu", "dn_deformable_detr", two_stage=True, num_feature_levels=2),
    "deformable": detector("prelu", "deformable_detr", num_feature_levels=1),
    "deformable, refined": detector("relu", "deformable_detr", with_box_refine=True, enc_n_points=2),
    "deformable, two stages": detector("relu", "deformable_detr", with_box_refine=True, two_stage=True),
}
WHOLE = {f"{name}, whole heads": detector(name=name, whole_heads=True) for name in REGISTRY}
MODELS |= WHOLE
EVERY_KIND = ("prelu", "deformable encoder", "dn deformable", *WHOLE)
IMAGES = [torch.randn(3, 64, 96), torch.randn(3, 48, 80)]


@st.composite
def kept_sets(draw: st.DrawFn, sites: list[Site]) -> dict[str, tuple[int, ...]]:
    kept = {}
    for site in draw(st.lists(st.sampled_from(sites), min_size=1, unique_by=lambda s: s.name)):
        units = range(site.group_width // site.unit)
        width = draw(st.integers(1, len(units)))
        channels = [
            group * site.group_width + unit * site.unit + channel
            for group in range(site.groups)
            for unit in draw(st.permutations(units))[:width]
            for channel in range(site.unit)
        ]
        kept[site.name] = tuple(sorted(channels))
    return kept


def difference(a, b) -> float:
    with torch.inference_mode():
        left, right = a(IMAGES), b(IMAGES)
    pairs = [(left, right), *zip(left["aux_outputs"], right["aux_outputs"], strict=True)]
    return max((x[key] - y[key]).abs().max().item() for x, y in pairs for key in ("pred_logits", "pred_boxes"))


@pytest.mark.parametrize("kind", MODELS)
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_slim_answers_as_masked_for_any_kept_sets_of_any_sites(kind: str, data: st.DataObject) -> None:
    model = MODELS[kind]
    kept = data.draw(kept_sets(list_sites(model)))
    assert difference(masked(model, kept), transplant(model, kept)) < 1e-4


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, site.name) for kind in EVERY_KIND for site in list_sites(MODELS[kind])]
)
def test_every_site_alone_is_lossless_and_its_pruning_is_felt(kind: str, name: str) -> None:
    model = MODELS[kind]
    site = next(site for site in list_sites(model) if site.name == name)
    kept = {name: tuple(g * site.group_width + c for g in range(site.groups) for c in range(site.unit))}
    slim = transplant(model, kept)
    assert difference(masked(model, kept), slim) < 1e-4
    assert difference(model, slim) > 1e-3
    inside = copy.deepcopy(model)
    shrink_site(inside, site, kept[name])
    assert difference(inside, slim) < 1e-6


@pytest.mark.parametrize("kind", WHOLE)
def test_a_dense_model_answers_the_same_however_its_heads_leave(kind: str) -> None:
    model = WHOLE[kind]
    by_channel = build_model(model_name(model), **{**model.options.to_dict(), "whole_heads": False}).eval()
    by_channel.load_state_dict(model.state_dict())
    assert difference(model, by_channel) == 0


def test_a_head_that_leaves_takes_along_where_it_looks() -> None:
    model = WHOLE["dn_deformable_detr, whole heads"]
    slim = transplant(model, {"encoder.0.attn": range(8, 16), "decoder.1.cross": range(16, 32)})
    before, after = model.state_dict(), slim.state_dict()
    for name, heads in (("encoder.layers.0.self_attn", slice(1, 2)), ("decoder.layers.1.cross_attn", slice(2, 4))):
        for linear in ("sampling_offsets", "attention_weights"):
            key = f"transformer.{name}.{linear}.weight"
            assert torch.equal(after[key], before[key].unflatten(0, (4, -1))[heads].flatten(0, 1))


def test_a_torn_head_is_refused() -> None:
    model = WHOLE["dn_detr, whole heads"]
    with pytest.raises(UserError, match=r"decoder\.1\.cross keeps a part of head 2; its 8 channels stay together"):
        transplant(model, {"decoder.1.cross": (*range(8), *range(16, 23))})


def test_magnitude_keeps_the_heads_with_weights() -> None:
    model = detector(name="dn_deformable_detr", whole_heads=True)
    state = model.state_dict()
    with torch.no_grad():
        for head in (0, 3):
            state["transformer.encoder.layers.1.self_attn.value_proj.weight"][head * 8 : head * 8 + 8] *= 1e-4
            state["transformer.encoder.layers.1.self_attn.value_proj.bias"][head * 8 : head * 8 + 8] *= 1e-4
        state["transformer.encoder.layers.1.self_attn.sampling_offsets.bias"][-64:] = 1e6
    cfgs = model.cfgs.replace({"encoder.1.attn": 16})
    kept = kept_by_magnitude(model, cfgs)
    assert kept["encoder.1.attn"] == tuple(range(8, 24))
    assert transplant(model, kept).cfgs == cfgs


def test_pruning_twice_is_pruning_once() -> None:
    model = MODELS["prelu"]
    first = transplant(model, {"encoder.0.attn": (0, 1, 8, 9, 16, 17, 24, 25), "decoder.1.ffn": range(20)})
    second = transplant(first, {"encoder.0.attn": (1, 3, 5, 7), "decoder.1.ffn": range(10)})
    once = transplant(model, {"encoder.0.attn": (1, 9, 17, 25), "decoder.1.ffn": range(10)})
    assert second.cfgs == once.cfgs
    assert difference(second, once) < 1e-5


def test_a_slim_site_inside_a_model_is_the_transplant_and_leaves_no_trace() -> None:
    model = detector()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    site = next(site for site in list_sites(model) if site.name == "decoder.0.cross")
    kept = (0, 3, 8, 9, 17, 18, 24, 31)
    slim = transplant(model, {site.name: kept})
    with slim_site(model, site, kept):
        assert difference(model, slim) < 1e-6
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    shrink_site(model, site, kept)
    assert difference(model, slim) < 1e-6


def test_the_dense_model_is_not_changed() -> None:
    model = detector()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    kept = {"encoder.0.ffn": (1, 2)}
    transplant(model, kept), masked(model, kept)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ((0, 1, 2, 3, 8), "different numbers"),
        ((), "keeps no channel"),
        ((0, 8, 16, 32), "0..31"),
        ((0, 0, 8, 16, 24), "different numbers of 0..31"),
    ],
)
def test_kept_sets_that_do_not_fit_are_refused(kept: tuple[int, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        transplant(MODELS["prelu"], {"encoder.1.attn": kept})


def test_magnitude_keeps_the_channels_with_weights() -> None:
    model = detector()
    state = model.state_dict()
    with torch.no_grad():
        state["transformer.decoder.layers.1.linear1.weight"][5:] *= 1e-4
        state["transformer.decoder.layers.1.linear1.bias"][5:] *= 1e-4
    cfgs = model.cfgs.replace({"decoder.1.ffn": 5})
    kept = kept_by_magnitude(model, cfgs)
    assert kept["decoder.1.ffn"] == (0, 1, 2, 3, 4)
    assert transplant(model, kept).cfgs == cfgs


def test_published_masks_become_kept_sets_with_equal_heads() -> None:
    model = MODELS["prelu"]
    mask = torch.zeros(32)
    mask[[0, 1, 2, 9, 16, 17, 24, 25]] = torch.tensor([0.9, 0.8, 0.1, 0.5, 0.6, 0.6, 0.7, 0.7])
    kept, exchanged = kept_from_masks(model, {"encoder.0.attn": mask})
    assert exchanged == 1  # head 0 gives up its weakest, channel 2, and head 1 takes its first one back
    assert kept["encoder.0.attn"] == (0, 1, 8, 9, 16, 17, 24, 25)
