"""Widths of every kind of site: what constructors build, what tensors tell, and what checkpoints keep."""

from argparse import Namespace
from functools import cache

import pytest
import torch
from torch import nn

from greedyprune import UserError, build_model, load_model
from greedyprune.models import save_checkpoint
from greedyprune.models.layers import MLP, Skipped

from ..helpers.crossed import crossed
from ..helpers.detectors import IMAGES, KINDS, SHAPE, TARGETS, detector


def cut(kind: str, gone=("encoder.0", "decoder.1")) -> dict[str, int]:
    """Other widths for every site, and two layers that are gone."""
    layout = detector_options(kind).layout
    widths = {}
    for index, (site, full) in enumerate(layout.dense.items()):
        if full > 1:
            widths[site] = 8 * (1 + index % 3) if site.endswith(("attn", "self", "cross")) else full // 2 + index % 3
    return layout.check({**widths, **dict.fromkeys(gone, 0), "queries": 6})


@cache
def detector_options(kind: str):
    name, options = KINDS[kind]
    with torch.device("meta"):
        return build_model(name, **{**SHAPE, **options}).options


def outputs(model):
    with torch.no_grad():
        answer = model.eval()(IMAGES)
    return [tensor for layer in answer.layers() for tensor in (layer.logits, layer.boxes)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_detector_has_the_widths_that_it_was_built_with(kind):
    widths = cut(kind)
    model = detector(kind, widths)
    assert model.widths == widths
    assert detector(kind).widths == model.options.dense_widths()
    answer = model(IMAGES)
    patterns = model.options.to_dict().get("num_patterns") or 1
    assert answer.logits.shape == (2, 6 * patterns, 4)
    assert len(answer.earlier) == 1
    assert isinstance(model.transformer.decoder.layers[1], Skipped)
    assert detector(kind, model.options.layout.to_text(widths)).widths == widths


@pytest.mark.parametrize(
    ("kind", "gone"),
    crossed(KINDS, [(), ("encoder.0", "encoder.1"), ("decoder.0", "decoder.2"), ("decoder.2",)]),
)
def test_a_checkpoint_keeps_all_widths(kind, gone, tmp_path):
    model = detector(kind, cut(kind, gone))
    save_checkpoint(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors", model.widths)
    assert loaded.widths == model.widths
    assert loaded.options == model.options
    assert all(torch.equal(a, b) for a, b in zip(outputs(loaded), outputs(model), strict=True))


@pytest.mark.parametrize(("kind", "gone"), crossed(KINDS, [(), ("encoder.0", "decoder.0"), ("encoder.0", "decoder.1")]))
def test_a_plain_state_dict_tells_its_widths(kind, gone, tmp_path):
    """Proposals are no tensor's size: training arguments tell them."""
    model = detector(kind, cut(kind, gone))
    options = model.options.to_dict()
    arguments = Namespace(
        nheads=4, dim_feedforward=40, num_queries=6, pe_temperatureH=options["temperature_h"],
        pe_temperatureW=options["temperature_w"],
    )  # fmt: skip
    torch.save({"model": model.state_dict(), "args": arguments}, tmp_path / "plain.pth")
    loaded = load_model(tmp_path / "plain.pth")
    found, wanted = loaded.widths, model.widths
    assert {name: found[name] for name in wanted} == wanted
    assert all(torch.equal(a, b) for a, b in zip(outputs(loaded), outputs(model), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_widths_are_those_of_the_tensors_at_hand(kind):
    model = detector(kind)
    dense = model.widths
    model.transformer.encoder.layers[1] = Skipped()
    model.transformer.decoder.layers[2] = Skipped()
    if model.options.refines:
        model.class_embed[2] = Skipped()
        model.bbox_embed[2] = Skipped()
    first = model.backbone[0].blocks["body.layer2.1"]
    first.conv1.weight = nn.Parameter(first.conv1.weight[:7])
    mlp = next(module for module in model.transformer.decoder.modules() if isinstance(module, MLP))
    for table in model.query_tables:
        table.weight = nn.Parameter(table.weight[:4])
    model.num_proposals = 4
    mlp.layers[0].weight = nn.Parameter(mlp.layers[0].weight[:5])
    changed = {name: width for name, width in model.widths.items() if width != dense[name]}
    gone = {name: 0 for name in dense if name.startswith(("encoder.1", "decoder.2"))}
    if model.options.refines:
        gone |= {"boxes.2.0": 0, "boxes.2.1": 0}
    own = {"backbone.3.conv1": 7, "queries": 4}
    assert {name: changed.pop(name) for name in (gone | own)} == gone | own
    assert list(changed.values()) == [5]


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_skipped_in_a_built_model_answers_as_one_built_without(kind):
    model = detector(kind)
    for part, index in (("encoder", 0), ("decoder", 1)):
        getattr(model.transformer, part).layers[index] = Skipped()
    if model.options.refines:
        model.class_embed[1], model.bbox_embed[1] = Skipped(), Skipped()
    other = detector(kind, {"encoder.0": 0, "decoder.1": 0})
    assert model.state_dict().keys() == other.state_dict().keys()
    other.load_state_dict(model.state_dict())
    assert other.widths == model.widths
    assert all(torch.equal(a, b) for a, b in zip(outputs(other), outputs(model), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_without_a_gradient_are_told(kind):
    """Data-parallel training waits for all others."""
    for gone in (("encoder.0",), ("decoder.1", "decoder.2"), ("encoder.0", "encoder.1")):
        model = detector(kind, dict.fromkeys(gone, 0)).train()
        answer = model(IMAGES, TARGETS)
        answers = [*answer.layers(), *([answer.proposals] if answer.proposals else [])]
        sum(each.logits.sum() + each.boxes.sum() for each in answers).backward()
        idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        assert all("query_scale" in name or "level_embed" in name for name in idle)
        assert model.has_idle_weights or not idle


def test_widths_that_no_detector_has_are_refused():
    with pytest.raises(UserError, match=r"cfgs names site 'boxes\.0\.0', which the model lacks"):
        detector("dn_detr", {"boxes.0.0": 8})
    with pytest.raises(UserError, match=r"cfgs: queries width 10 is wider than the dense model's 9"):
        detector("dn_detr", {"queries": 10})
