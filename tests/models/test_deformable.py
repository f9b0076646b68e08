"""Deformable attention by its definition, and detectors made of it from options to checkpoints."""

import json
import math
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from greedyprune import UserError, build_model, load_checkpoint, load_model
from greedyprune.models import MODELS, Criterion, ModelInfo, pad_images, save_checkpoint
from greedyprune.models.answer import DetrAnswer
from greedyprune.models.deformable_attention import DeformableAttention, DeformableSelfAttention
from greedyprune.models.features import Levels
from greedyprune.models.layers import Heads

from ..helpers.crossed import crossed
from .small_model import SHAPE, SLIM

GOLDEN = Path(__file__).parents[1] / "data" / "goldens" / "dn_deformable_detr_r50.json"
KINDS = {
    "dn": ("dn_deformable_detr", {"enc_n_points": 2}),
    "dn, two stages": ("dn_deformable_detr", {"two_stage": True, "dec_n_points": 3}),
    "encoder": ("dn_deformable_encoder_detr", {"num_feature_levels": 3, "temperature_h": 10.0}),
    "encoder, levels": (
        "dn_deformable_encoder_detr",
        {"num_feature_levels": 3, "temperature_h": 10.0, "level_attention": True},
    ),
    "plain": ("deformable_detr", {"num_feature_levels": 1}),
    "refined": ("deformable_detr", {"with_box_refine": True}),
    "two stages": ("deformable_detr", {"with_box_refine": True, "two_stage": True}),
}
IMAGES = [torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(0))]


def detector(kind, cfgs=None, **options):
    """A model in which everything has a say; heads and offsets start as zeros."""
    name, own = KINDS[kind]
    model = build_model(name, cfgs, **{**SHAPE, **own, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def answer(model):
    with torch.no_grad():
        return model(IMAGES).logits


def sampled(plane, x, y):
    """Bilinear interpolation of `[h, w, channels]` between cell centres, zero outside."""
    height, width = plane.shape[:2]
    column, row = x * width - 0.5, y * height - 0.5
    total = torch.zeros(plane.shape[2])
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                total = total + (1 - abs(row - i)) * (1 - abs(column - j)) * plane[i, j]
    return total


@pytest.mark.parametrize("coordinates", [2, 4])
def test_attention_is_a_weighted_sum_of_samples_around_the_reference(coordinates):
    heads, points, shapes = 2, 3, ((3, 4), (2, 2))
    layer = DeformableAttention(8, 4, Heads(heads), 2, points)
    query, memory, reference = torch.randn(1, 2, 8), torch.randn(1, 16, 8), torch.rand(1, 2, 2, coordinates)
    shown = torch.ones(1, 16, dtype=torch.bool)
    shown[0, 3] = False
    found = layer(query, memory, reference, Levels(shapes, torch.ones(1, 2, 2), torch.rand(1, 16, 2), shown))
    value = layer.value_proj(memory)[0] * shown[0, :, None]
    planes = [value[:12].view(3, 4, heads, 2), value[12:].view(2, 2, heads, 2)]
    offsets = layer.sampling_offsets(query).view(2, heads, 2, points, 2)
    weights = layer.attention_weights(query).view(2, heads, 2 * points).softmax(-1).view(2, heads, 2, points)
    for n in range(2):
        total = torch.zeros(heads, 2)
        for head in range(heads):
            for level, (height, width) in enumerate(shapes):
                for point in range(points):
                    start, offset = reference[0, n, level], offsets[n, head, level, point]
                    if coordinates == 2:
                        x, y = start[0] + offset[0] / width, start[1] + offset[1] / height
                    else:
                        x = start[0] + offset[0] / points * start[2] / 2
                        y = start[1] + offset[1] / points * start[3] / 2
                    sample = sampled(planes[level][:, :, head], x.item(), y.item())
                    total[head] += weights[n, head, level, point] * sample
        torch.testing.assert_close(found[0, n], layer.output_proj(total.flatten()), rtol=1e-4, atol=1e-5)


def test_heads_start_by_looking_in_all_directions():
    layer = DeformableSelfAttention(16, 16, Heads(4), 2, 3)
    layer.look_around()
    offsets = layer.sampling_offsets.bias.view(4, 2, 3, 2)
    wanted = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    for level in range(2):
        for point in range(3):
            torch.testing.assert_close(offsets[:, level, point], wanted * (point + 1), atol=1e-6, rtol=0)
    assert not layer.attention_weights.weight.any()


def test_tokens_lie_level_after_level_at_their_cells_centres():
    model = detector("encoder")
    features = model.features(pad_images([torch.randn(3, 64, 96), torch.randn(3, 32, 96)]))
    levels = features.pyramid
    assert levels.shapes == ((8, 12), (4, 6), (2, 3))
    assert model.strides == (8, 16, 32)
    assert features.tokens.shape == (2, 96 + 24 + 6, 32)
    assert levels.valid[1].tolist() == [[1.0, 0.5]] * 3
    assert levels.centres[0, 96 + 7].tolist() == pytest.approx([1.5 / 6, 1.5 / 4])
    assert levels.centres[1, 96 + 7].tolist() == pytest.approx([1.5 / 6, 1.5 / 2])  # in its own, smaller image
    assert levels.shown[1, :96].view(8, 12)[:4].all()
    assert not levels.shown[1, :96].view(8, 12)[4:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_the_padding_does_not_change_detections(kind):
    model = detector(kind)
    features = model.features(pad_images([torch.randn(3, 64, 96), torch.randn(3, 32, 64)]))
    noise = torch.randn_like(features.tokens) * ~features.shown[:, 0, 0, :, None] * 100
    with torch.no_grad():
        wanted, found = model.detect(features), model.detect(features._replace(tokens=features.tokens + noise))
    for name in ("logits", "boxes"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "cfgs"), crossed(KINDS, [None, SLIM]))
def test_a_checkpoint_of_ours_knows_everything(tmp_path, kind, cfgs):
    model = detector(kind, cfgs)
    model.info = ModelInfo(("a", "b", "c", "d", "e", "f"), (1, 2, 5, 7, 8, 90), 160, 200)
    save_checkpoint(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert (type(loaded), loaded.options, loaded.widths) == (type(model), model.options, model.widths)
    assert loaded.info == model.info
    assert torch.equal(answer(loaded), answer(model))
    assert torch.equal(answer(load_checkpoint(detector(kind, cfgs), model.state_dict())), answer(model))


@pytest.mark.parametrize(("kind", "cfgs"), crossed(KINDS, [None, SLIM]))
def test_a_published_state_dict_tells_its_shape(tmp_path, kind, cfgs):
    model = detector(kind, cfgs)
    options = model.options
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    if kind == "plain":  # published models have the decoder's names of heads only where it refines boxes
        state = {key: value for key, value in state.items() if "decoder.bbox_embed" not in key}
    arguments = Namespace(nheads=4, dim_feedforward=48, num_queries=7, pe_temperatureH=10, pe_temperatureW=20)
    torch.save({"model": state, "args": arguments}, tmp_path / "published.pth")
    loaded = load_model(tmp_path / "published.pth")
    assert (type(loaded), loaded.options, loaded.widths) == (type(model), options, model.widths)
    assert torch.equal(answer(loaded), answer(model))


def test_heads_that_differ_do_not_load_where_they_are_one():
    other = detector("refined", num_feature_levels=1)
    with pytest.raises(UserError, match=r"_embed\.0\.\S* and \S*_embed\.1\.\S* differ, and are one tensor here"):
        load_checkpoint(detector("plain"), other.state_dict())


def test_the_dense_model_has_the_published_parameters():
    with torch.device("meta"):
        model = build_model("dn_deformable_detr")
    shapes = json.loads(GOLDEN.read_text())["state_dict"]
    own = {key: shape for key, shape in shapes.items() if not key.startswith("transformer.decoder.bbox_embed.")}
    assert own.keys() <= model.state_dict().keys()
    trained = {key for key, _ in model.named_parameters()}
    shared = {key.replace("transformer.decoder.bbox", "bbox") for key in trained}
    published = sum(math.prod(shape) for key, shape in own.items() if key in shared)
    assert sum(parameter.numel() for parameter in model.parameters()) == published


def test_boxes_of_a_first_stage_are_matched_as_objects_of_class_0():
    model = detector("two stages")
    criterion = Criterion(6)
    targets = [{"labels": torch.tensor([3, 5]), "boxes": torch.rand(2, 4) * 0.4 + 0.3}]
    outputs = model(IMAGES)
    losses = criterion(outputs, targets)
    objects = [{**targets[0], "labels": torch.zeros(2, dtype=torch.long)}]
    alone = criterion(DetrAnswer(outputs.proposals.logits, outputs.proposals.boxes), objects)
    for name in ("loss_ce", "loss_bbox", "loss_giou", "cardinality_error"):
        assert losses[f"{name}_enc"] == alone[name]
    weights = criterion.weight_dict(losses)
    assert (weights["loss_ce_enc"], weights["loss_bbox_enc"], weights["loss_giou_enc"]) == (1.0, 5.0, 2.0)
    assert "cardinality_error_enc" not in weights
    total = criterion.total(losses)
    assert torch.isfinite(total)
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["dn", "dn, two stages", "encoder", "encoder, levels"])
def test_denoising_queries_change_no_matching_output(kind):
    model = detector(kind, freeze_norm=True).train()
    targets = [{"labels": torch.tensor([3, 5]), "boxes": torch.rand(2, 4) * 0.4 + 0.3}]
    with torch.no_grad():
        beside, without = model(IMAGES, targets), model(IMAGES)
    assert beside.denoising.logits.shape == (2, 1, 10, 6)
    for name in ("logits", "boxes"):
        torch.testing.assert_close(getattr(beside, name), getattr(without, name), rtol=1e-4, atol=1e-5)


def test_deformable_detr_has_no_denoising():
    targets = [{"labels": torch.tensor([3]), "boxes": torch.rand(1, 4)}]
    assert detector("refined").train()(IMAGES, targets).denoising is None


@pytest.mark.parametrize("kind", ["dn", "two stages", "plain"])
def test_every_parameter_has_a_gradient_in_every_training_step(kind):
    """Data-parallel training waits for all of them, with targets in the batch or without."""
    model = detector(kind).train()
    outputs = model(IMAGES, [{"labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)}])
    answers = [*outputs.layers(), *([outputs.proposals] if outputs.proposals else [])]
    sum(answer.logits.sum() + answer.boxes.sum() for answer in answers).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("deformable_detr", {"two_stage": True}, "two_stage needs with_box_refine"),
        ("deformable_detr", {"num_feature_levels": 0}, "num_feature_levels is 0"),
        ("dn_deformable_detr", {"dec_n_points": 0}, "dec_n_points is 0"),
        ("dn_deformable_detr", {"hidden_dim": 48}, "hidden_dim is 48"),
        ("dn_deformable_detr", {"with_box_refine": True}, "'with_box_refine' is unknown"),
        ("dn_detr", {"two_stage": True}, "'two_stage' is unknown"),
    ],
)
def test_impossible_options_are_refused_by_name(name, options, words):
    with pytest.raises(UserError, match=words):
        build_model(name, **SHAPE | options)


def test_every_model_is_found_by_its_name():
    assert set(MODELS) == {"dn_detr", "dn_deformable_detr", "dn_deformable_encoder_detr", "deformable_detr"}
