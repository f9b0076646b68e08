"""`weight`: magnitudes against percentiles, strictly above, on the weights of convolutions and linear layers alone."""

import numpy as np
import pytest
import torch
from torch import nn

from greedyprune import save
from greedyprune.classical import METHODS, Subject
from greedyprune.classical.percentile import percentile
from greedyprune.classical.weights import nonzero, weights_of
from greedyprune.packed import Sizes

from ..helpers.engine import EVERY_KIND, subject
from .yolo import KEYS, golden, weights

# Share -> parameters that are not zero in the published table of YOLOv2 on VOC.
PUBLISHED = {0.70: 15_211_174, 0.75: 12_679_443, 0.80: 10_147_712, 0.90: 5_084_256}


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("count", [1, 2, 11, 1000])
def test_a_percentile_is_numpys(share: float, count: int) -> None:
    values = np.random.default_rng(count).standard_normal(count)
    assert percentile(torch.from_numpy(values), share) == pytest.approx(np.percentile(values, share * 100), abs=1e-12)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_weights_are_those_of_layers_and_stacked_projections_each_once(kind: str) -> None:
    one = subject(kind)
    found = weights_of(Subject(one.family, one.model))
    parameters = dict(one.model.named_parameters())
    layers = {id(each.weight) for each in one.model.modules() if isinstance(each, (nn.Linear, nn.Conv2d))}
    packed = {id(each) for name, each in parameters.items() if name.endswith("in_proj_weight")}
    pointers = [tensor.data_ptr() for tensor in found.values()]
    assert len(set(pointers)) == len(pointers)
    assert set(pointers) == {each.data_ptr() for each in parameters.values() if id(each) in layers | packed}


@pytest.mark.parametrize(("kind", "name"), [("grid", "weight"), ("grid", "weight_per_layer"), ("deformable", "weight")])
def test_what_is_strictly_above_the_threshold_stays_and_nothing_else_changes(kind: str, name: str) -> None:
    one = subject(kind)
    about = Subject(one.family, one.model)
    pruned = METHODS[name].apply(about, 0.6)
    before, after = weights_of(about), pruned.state_dict()
    every = np.concatenate([each.abs().numpy().ravel() for each in before.values()]).astype(np.float64)
    for key, weight in before.items():
        own = weight.abs().numpy().astype(np.float64)
        threshold = np.percentile(every if name == "weight" else own, 60)
        assert np.array_equal(after[key].numpy(), np.where(own > threshold, weight.numpy(), 0))
        assert not (after[key].signbit() & (after[key] == 0)).any()
    others = one.model.state_dict().keys() - before.keys()
    shared = {key for key in others if any(after[key].data_ptr() == after[name].data_ptr() for name in before)}
    assert all(torch.equal(after[key], one.model.state_dict()[key]) for key in others - shared)


def test_a_weight_that_equals_the_threshold_goes() -> None:
    row = torch.tensor([[1.0, 2.0, 2.0, 3.0, 4.0]])
    assert METHODS["weight"].kept({"w": row}, 0.5)["w"].tolist() == [[False, False, False, True, True]]


def test_a_share_of_nothing_changes_nothing() -> None:
    one = subject()
    assert not METHODS["weight"].prune(Subject(one.family, one.model), 0.0).change


@pytest.mark.slow
def test_the_published_parameter_counts_follow_from_the_size_alone() -> None:
    sizes = golden()
    draw = torch.Generator().manual_seed(0)
    shapes = zip(KEYS, sizes["filters"], sizes["fan_in"], strict=True)
    drawn = {key: torch.randn(filters, fan_in, generator=draw) for key, filters, fan_in in shapes}
    for share, count in PUBLISHED.items():
        kept = METHODS["weight"].kept(drawn, share)
        assert abs(sum(int(each.sum()) for each in kept.values()) + sizes["not_conv_weights"] - count) <= 5


@pytest.mark.slow
def test_the_studys_rule_keeps_the_same_weights_of_every_layer() -> None:
    for share, expected in golden()["weight"].items():
        kept = METHODS["weight"].kept(weights(), int(share) / 100)
        assert [int(each.sum()) for each in kept.values()] == expected["kept"]


def test_files_get_smaller_by_what_is_zero(tmp_path) -> None:
    one = subject("dn_detr")
    about = Subject(one.family, one.model)
    pruned = METHODS["weight"].apply(about, 0.9)
    sizes = save(pruned, tmp_path / "small.safetensors", sparse=True)
    assert isinstance(sizes, Sizes)
    total = sum(each.numel() for each in weights_of(about).values())
    left = nonzero(pruned) - (nonzero(one.model) - total)
    assert left == pytest.approx(0.1 * total, abs=2)
    assert sizes.dense - sizes.packed == pytest.approx(4 * total - total / 8 - 4 * left, rel=0.01)
