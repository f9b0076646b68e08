"""Weights files in both forms, and checkpoints that know their layers."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

import greedyprune
from greedyprune import UserError
from greedyprune.classes import Classes
from greedyprune.models.checkpoint import METADATA_KEY
from greedyprune.models.darknet.cfg import load_cfg
from greedyprune.models.darknet.checkpoint import is_darknet, load_darknet, load_weights, save_darknet
from greedyprune.models.darknet.layers import darknet_variance, stored_variance
from greedyprune.models.darknet.network import Darknet
from greedyprune.models.darknet.new import new_darknet, with_classes
from greedyprune.models.darknet.options import DarknetInfo
from greedyprune.models.darknet.weights_file import read_weights, write_weights

from .golden import PUBLISHED, TINY, own_key
from .small_darknet import small_cfg, small_darknet

CFG = load_cfg(TINY / "tiny.cfg")
SAID = json.loads((TINY / "expected.json").read_text())


@pytest.fixture(scope="module")
def expected():
    with np.load(TINY / "expected.npz") as found:
        return {key: torch.from_numpy(value) for key, value in found.items()}


@pytest.mark.parametrize(("header", "seen"), [("header16", SAID["seen16"]), ("header20", SAID["header20"]["seen"])])
def test_both_headers_are_told_apart_and_every_layer_answers_as_published(header, seen, expected):
    model = load_weights(TINY / f"{header}.weights", CFG, PUBLISHED)
    assert int(model.seen) == seen
    state = model.state_dict()
    for key, value in expected.items():
        if key.startswith("t:"):
            assert torch.equal(state[own_key(model, key.removeprefix("t:"))], value), key
    outputs = []
    for layer in model.layers:
        layer.register_forward_hook(lambda module, given, output: outputs.append(output))
    with torch.no_grad():
        assert torch.allclose(model(expected["image"]), expected["output"], rtol=1e-3, atol=1e-4)
    for number, output in enumerate(outputs):
        torch.testing.assert_close(output, expected[f"out_{number}"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("long", [False, True])
def test_a_file_is_written_as_it_was_read(long, tmp_path):
    source = TINY / ("header20.weights" if long else "header16.weights")
    model = load_weights(source, CFG, PUBLISHED)
    write_weights(model, tmp_path / "again.weights", long)
    before, after = source.read_bytes(), (tmp_path / "again.weights").read_bytes()
    header = 20 if long else 16
    assert after[header:] == before[header:]
    assert int(load_weights(tmp_path / "again.weights", CFG, PUBLISHED).seen) == int(model.seen)


def test_a_slim_detector_is_written_for_darknet_with_the_layers_that_it_has(tmp_path):
    model = small_darknet(filters=(4, 4, 6, 14))
    greedyprune.save(model, tmp_path / "slim.weights")
    again = greedyprune.load(tmp_path / "slim.weights")
    assert again.cfg == model.cfg.with_filters((4, 4, 6, 14))
    image = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        assert torch.allclose(again(image), model(image), atol=1e-6)
    with pytest.raises(UserError, match="have the plain order, and Darknet has its own"):
        greedyprune.save(small_darknet(DarknetInfo(reorg="plain")), tmp_path / "plain.weights")


def test_a_file_that_ends_early_is_a_backbone_and_only_if_asked(tmp_path):
    model = Darknet(CFG, PUBLISHED)
    last = model.convolutions[-1].conv.weight.detach().clone()
    with pytest.raises(UserError, match=r"layers of the cfg need 764; .* --backbone_weights"):
        read_weights(model, TINY / "backbone.weights")
    read_weights(model, TINY / "backbone.weights", backbone=True)
    whole = load_weights(TINY / "header16.weights", CFG, PUBLISHED)
    for own, other in zip(model.convolutions[:2], whole.convolutions[:2], strict=True):
        assert torch.equal(own.conv.weight, other.conv.weight)
        assert torch.equal(own.norm.running_var, other.norm.running_var)
    assert torch.equal(model.convolutions[-1].conv.weight, last)
    cut = tmp_path / "cut.weights"
    cut.write_bytes((TINY / "backbone.weights").read_bytes()[:-4])
    with pytest.raises(UserError, match="may end after a convolution only"):
        read_weights(model, cut, backbone=True)


def test_damaged_weights_are_refused_by_layer(tmp_path):
    data = bytearray((TINY / "header16.weights").read_bytes())
    data[16 + 12 * 4 : 16 + 13 * 4] = np.float32(-1).tobytes()  # the first variance
    (tmp_path / "bad.weights").write_bytes(data)
    with pytest.raises(UserError, match=r"convolution 1, norm.running_var is a variance and holds -1"):
        load_weights(tmp_path / "bad.weights", CFG, PUBLISHED)
    (tmp_path / "none.weights").write_bytes(b"no")
    with pytest.raises(UserError, match="has 2 bytes, and no header"):
        load_weights(tmp_path / "none.weights", CFG, PUBLISHED)
    with pytest.raises(UserError, match="cannot be read"):
        load_weights(tmp_path / "missing.weights", CFG, PUBLISHED)


def test_norms_divide_as_darknet_does_even_where_a_variance_is_tiny(tmp_path):
    variance = torch.tensor([0.0, 1e-12, 1e-9, 1e-6, 1e-3, 1.0, 1e4])
    assert torch.allclose(
        (stored_variance(variance).double() + 1e-12).sqrt(), variance.double().sqrt() + 1e-6, rtol=1e-6
    )
    assert torch.allclose(darknet_variance(stored_variance(variance)), variance, rtol=1e-5, atol=1e-16)
    info = DarknetInfo(reorg="plain")
    model = load_weights(TINY / "header16.weights", CFG, info)
    plain = load_weights(TINY / "header16.weights", CFG, PUBLISHED)
    norm, other = model.convolutions[0].norm, plain.convolutions[0].norm
    x = torch.randn(2, 4, 3, 3)
    mean, scale, shift = (each.view(4, 1, 1) for each in (other.running_mean, other.weight, other.bias))
    wanted = (x - mean) / (other.running_var.view(4, 1, 1).sqrt() + 1e-6) * scale + shift
    assert torch.allclose(norm(x), wanted, atol=1e-6)
    write_weights(model, tmp_path / "again.weights", long=False)
    again = load_weights(tmp_path / "again.weights", CFG, PUBLISHED)
    assert torch.allclose(again.convolutions[0].norm.running_var, other.running_var)


@pytest.mark.parametrize("filters", [None, (4, 4, 6, 14)])
def test_a_checkpoint_knows_layers_widths_classes_and_order(filters, tmp_path):
    info = DarknetInfo(("box", "disc"), (3, 8), "plain", "pytorch", 0.1, 0.6, True)
    model = small_darknet(info, filters)
    model.seen.fill_(77)
    path = tmp_path / "model.safetensors"
    save_darknet(model, path, {"more": "text"})
    assert is_darknet(path)
    again = load_darknet(path)
    assert (again.info, again.cfg, again.filters, int(again.seen)) == (info, model.cfg, model.filters, 77)
    image = torch.rand(1, 3, 32, 96)
    with torch.no_grad():
        assert torch.equal(again(image), model(image))
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["more"] == "text"


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("format", 2, "its format is 2"),
        ("cfg", 5, "its cfg is 5"),
        ("cfg", "[net]\nwidth=3", "line 1, \\[net\\]: has no height"),
        ("filters", [8, 8], "2 widths for 4 convolutions"),
        ("filters", [8, 8, 99, 14], "convolution 3 has 99 filters of 12"),
        ("filters", [8, 8, 6, 14], "layers.5.conv.weight has shape"),
        ("info", {"reorg": "new"}, "reorg of the model is 'new'"),
        ("info", {"class_names": ["a"]}, "1 class names for 2 classes"),
        ("info", {"colour": 1}, "'colour' is unknown"),
        ("seen", -1, "number of images seen is -1"),
    ],
)
def test_damaged_metadata_is_refused_by_name(key, value, told, tmp_path):
    path = tmp_path / "model.safetensors"
    save_darknet(small_darknet(), path)
    with safetensors.safe_open(path, "pt") as file:
        about = json.loads(file.metadata()[METADATA_KEY])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    safetensors.torch.save_file(state, path, {METADATA_KEY: json.dumps({**about, key: value})})
    with pytest.raises(UserError, match=told) as error:
        load_darknet(path)
    assert str(path) in str(error.value)


def test_other_classes_keep_what_is_of_no_class_and_the_classes_that_stay():
    model = small_darknet()
    made = with_classes(model, Classes(3, (1, 2, 3), ("new", "disc", "other")), {1: 1})
    before, after = (each.convolutions[-1].conv.weight.view(2, -1, 44) for each in (model, made))
    assert after.shape[1] == 8
    assert torch.equal(after[:, :5], before[:, :5])
    assert torch.equal(after[:, 6], before[:, 6])
    assert torch.equal(made.convolutions[0].norm.running_var, model.convolutions[0].norm.running_var)
    assert made.classes.names == ("new", "disc", "other")


def test_a_new_detector_starts_from_a_backbone():
    model = new_darknet(CFG, PUBLISHED, Classes(4, (1, 2, 3, 4), tuple("abcd")), TINY / "backbone.weights")
    assert model.filters == (4, 6, 18)
    assert torch.equal(
        model.convolutions[1].conv.weight,
        load_weights(TINY / "header16.weights", CFG, PUBLISHED).convolutions[1].conv.weight,
    )


def test_darknets_order_needs_channels_for_whole_squares():
    with pytest.raises(UserError, match=r"layer 3, a reorg of stride 2, reads 6 channels"):
        Darknet(CFG, DarknetInfo())
    assert small_cfg().channels()[8] == 32
