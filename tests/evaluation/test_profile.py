import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from greedyprune import build_model
from greedyprune.evaluation.profile import WHOLE, count_flops, count_parameters, measure_latency
from greedyprune.families.detr import DetrFamily
from greedyprune.models import ImageBatch

GP = (
    "[[[152, 416], [232, 1408], [216, 1504], [232, 1248], [224, 1472], [248, 1344]], [[8, 136, 544], [184, 192, 1216],"
    " [240, 168, 1920], [232, 256, 800], [256, 192, 960], [256, 216, 1216]]]"
)
MGP = (
    "[[[160, 32], [176, 672], [216, 608], [224, 1344], [248, 1248], [248, 1152]], [[8, 96, 640], [120, 120, 1248],"
    " [224, 160, 1120], [176, 144, 576], [224, 256, 672], [216, 152, 1472]]]"
)
TINY = {"num_classes": 5, "hidden_dim": 16, "heads": 2, "ffn_dim": 40, "num_queries": 7, "backbone": "small"}


FAMILY = DetrFamily()


class EveryLayer(DetrFamily):
    """What is published counts the heads of every decoder layer, of which only the last one's answer is used."""

    def answer(self, model, inputs, last_only=False):
        return super().answer(model, inputs)


class Plain(DetrFamily):
    """Of networks that take a tensor."""

    def inputs(self, model, images):
        return torch.stack(list(images))

    def answer(self, model, inputs, last_only=False):
        return model(inputs)


class ConvAttend(nn.Module):
    """A convolution, and attention whose queries and keys have other head dims than its values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(6, 12, 1, groups=3)
        self.transformer = Attend()

    def forward(self, images):
        return self.transformer(self.grouped(self.conv(images)))


class Attend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(12, 10), nn.Linear(12, 10), nn.Linear(12, 6)

    def forward(self, maps):
        x = maps.flatten(2).transpose(1, 2)  # [1, N, 12]
        q, k, v = (linear(x).unflatten(-1, (2, -1)).transpose(1, 2) for linear in (self.q, self.k, self.v))
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask), q @ k.transpose(-1, -2)


def test_multiply_adds_of_a_small_network_are_those_worked_out_by_hand():
    total, transformer = count_flops(Plain(), ConvAttend(), (10, 14)).values()
    tokens = 5 * 7
    convolutions = tokens * 6 * (3 * 9) + tokens * 12 * (6 // 3)
    linears = tokens * 12 * (10 + 10 + 6)
    attention = tokens * tokens * 10 + tokens * tokens * 6
    again = tokens * tokens * 10  # the product written out with @
    assert transformer == linears + attention + again
    assert total == convolutions + transformer


def test_multiply_adds_of_a_slim_transformer_are_those_of_the_formula():
    encoder, decoder = [(6, 17), (10, 9)], [(4, 14, 23), (12, 2, 5)]
    model = build_model("dn_detr", [encoder, decoder], enc_layers=2, dec_layers=2, **TINY)
    transformer = count_flops(FAMILY, model, (32, 64))["Transformer"]
    tokens = len(model.features(ImageBatch(torch.zeros(1, 3, 32, 64), None)).tokens[0])
    d, queries = 16, 7
    expected = 0
    for attn, ffn in encoder:
        expected += tokens * (4 * d * attn + 2 * d * ffn) + 2 * tokens * tokens * attn
        expected += tokens * 2 * d * d  # query_scale
    for index, (own, cross, ffn) in enumerate(decoder):
        expected += queries * (6 * d * own + 2 * d * ffn) + 2 * queries * queries * own
        first = index == 0
        expected += queries * (3 + first) * d * cross + tokens * 3 * d * cross + queries * tokens * 3 * cross
        expected += queries * (2 * d * d + d * d)  # ref_point_head
        expected += queries * (d * d + d * 2)  # ref_anchor_head
        expected += 0 if first else queries * 2 * d * d  # query_scale
        expected += queries * (2 * d * d + 4 * d) if first else 0  # the box head between two layers
    assert transformer == expected


def test_multiply_adds_of_a_slim_deformable_transformer_are_those_of_the_formula():
    encoder, decoder = [(8, 17), (4, 9)], [(4, 12, 23), (16, 2, 5)]
    shape = TINY | {"hidden_dim": 32, "enc_n_points": 3, "dec_n_points": 2, "num_feature_levels": 3}
    model = build_model("dn_deformable_detr", [encoder, decoder], enc_layers=2, dec_layers=2, **shape)
    transformer = count_flops(FAMILY, model, (32, 64))["Transformer"]
    tokens = (4 * 8) + (2 * 4) + (1 * 2)
    d, queries, heads, levels = 32, 7, 2, 3
    expected = 0
    for attn, ffn in encoder:
        expected += tokens * (2 * d * attn + 2 * d * ffn)
        expected += tokens * d * heads * levels * 3 * (2 + 1)  # offsets and weights
        expected += tokens * attn * levels * 3 * 5  # sampling
    for index, (own, cross, ffn) in enumerate(decoder):
        expected += queries * (4 * d * own + 2 * d * ffn) + 2 * queries * queries * own
        expected += tokens * d * cross + queries * cross * d
        expected += queries * d * heads * levels * 2 * (2 + 1)
        expected += queries * cross * levels * 2 * 5
        expected += queries * (2 * d * d + d * d)  # ref_point_head
        expected += 0 if index == 0 else queries * 2 * d * d  # query_scale
        expected += queries * (2 * d * d + 4 * d) if index == 0 else 0  # the box head between two layers
    assert transformer == expected


@pytest.mark.parametrize(
    ("cfgs", "params", "transformer_params", "flops", "transformer_flops"),
    [
        (None, 43_694_977, 19_667_474, 86.56, 15.86),
        pytest.param(GP, 36_890_833, 12_863_330, 82.17, 11.47, marks=pytest.mark.slow),
        (MGP, 34_495_217, 10_467_714, 80.42, 9.72),
    ],
    ids=["dense", "gp", "mgp"],
)
def test_the_published_models_have_the_published_costs(cfgs, params, transformer_params, flops, transformer_flops):
    with FakeTensorMode():  # shapes without numbers: nothing is computed
        model = build_model("dn_detr", cfgs)
        counted = count_flops(EveryLayer(), model, (800, 1066))
    assert count_parameters(FAMILY, model) == {WHOLE: params, "Transformer": transformer_params}
    assert counted[WHOLE] / 1e9 == pytest.approx(flops, abs=0.005)
    assert counted["Transformer"] / 1e9 == pytest.approx(transformer_flops, abs=0.005)


def test_the_model_is_left_in_the_mode_and_with_the_hooks_it_had():
    model = build_model("dn_detr", enc_layers=1, dec_layers=1, **TINY).train()
    count_flops(FAMILY, model, (32, 32))
    measure_latency(FAMILY, model, (32, 32), warmup=0, runs=1)
    assert model.training
    assert not model.transformer._forward_hooks
    assert not model.transformer._forward_pre_hooks


def test_latency_is_measured_for_the_whole_and_for_the_transformer_alone():
    model = build_model("dn_detr", enc_layers=1, dec_layers=1, **TINY)
    latency = measure_latency(FAMILY, model, (64, 64), warmup=1, runs=5)
    assert set(latency) == {WHOLE, "Transformer"}
    assert all(0 < each.median <= each.p95 for each in latency.values())
