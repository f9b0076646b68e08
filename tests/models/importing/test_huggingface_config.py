"""Every value of config.json and preprocessor_config.json is checked as it is read, and nothing is written then."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from greedyprune import UserError
from greedyprune.commands.import_hf import main

from ..small_model import refused
from .small_huggingface import SHAPE, imported, refuse_import, resnet, transformers, variant

KINDS = {
    "dab": (transformers.DabDetrConfig, transformers.DabDetrForObjectDetection, ["stage4"], {"hidden_size": 32}),
    "deformable": (
        transformers.DeformableDetrConfig,
        transformers.DeformableDetrForObjectDetection,
        ["stage2", "stage3", "stage4"],
        {"d_model": 64},
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A saved model of every kind, of which tests make variants."""
    found = {}
    for kind, (config, model, stages, own) in KINDS.items():
        found[kind] = tmp_path_factory.mktemp(kind)
        model(config(backbone_config=resnet(stages), **SHAPE, **own)).save_pretrained(found[kind])
    return found


NOT_COUNTS = ["6", 6.5, True, [6], 0, -5, 10**9]
COUNTS = [
    *(("dab", name) for name in ("hidden_size", "num_queries", "encoder_layers", "decoder_layers")),
    *(("dab", name) for name in ("encoder_attention_heads", "encoder_ffn_dim")),
    *(("deformable", name) for name in ("d_model", "num_queries", "encoder_layers", "decoder_layers")),
    *(("deformable", name) for name in ("num_feature_levels", "encoder_n_points", "decoder_n_points")),
]


@pytest.mark.parametrize(("kind", "name"), COUNTS)
def test_a_size_of_another_type_or_range_is_named(folders, tmp_path, kind, name):
    for index, value in enumerate(NOT_COUNTS):
        here = variant(folders[kind], tmp_path / str(index), **{name: value})
        refuse_import(here, tmp_path / "ours.safetensors", f"config.json: {name} is ")


SIZES = [
    *(("dab", name) for name in ("hidden_size", "num_queries", "num_patterns", "encoder_layers", "decoder_layers")),
    *(("deformable", name) for name in ("d_model", "num_queries", "encoder_layers", "num_feature_levels")),
    *(("deformable", name) for name in ("encoder_n_points", "decoder_n_points")),
]


@pytest.mark.parametrize(("kind", "name"), SIZES)
def test_a_size_that_the_weights_do_not_have_is_refused(folders, tmp_path, kind, name):
    here = variant(folders[kind], tmp_path / "changed", **{name: 5})
    refuse_import(here, tmp_path / "ours.safetensors", f"config.json: {name} is 5, the weights have ")


OTHERS = [
    *(("dab", name, value) for name in ("temperature_height", "temperature_width") for value in ("20", 0, -1, True)),
    *(("dab", "sine_position_embedding_scale", value) for value in ("2pi", -1, [6.28])),
    *(("dab", "random_refpoints_xy", value) for value in (1, "yes")),
    *(("dab", "activation_function", value) for value in (3, ["relu"], "silu")),
    *(("dab", "dilation", value) for value in (0, "false", [])),
    *(("dab", "backbone_config", value) for value in (3, "resnet50", [])),
    *(("deformable", name, value) for name in ("two_stage", "with_box_refine") for value in (1, "yes", [])),
]


@pytest.mark.parametrize(("kind", "name", "value"), OTHERS, ids=str)
def test_another_setting_of_another_type_is_named(folders, tmp_path, kind, name, value):
    here = variant(folders[kind], tmp_path / "changed", **{name: value})
    refuse_import(here, tmp_path / "ours.safetensors", f"config.json: {name} is ")


@pytest.mark.parametrize("features", [["stem"], ["stage4", 3], [None], "stage4", 4, [["stage4"]]])
@pytest.mark.parametrize("kind", KINDS)
def test_stages_of_another_kind_are_named(folders, tmp_path, kind, features):
    backbone = json.loads((folders[kind] / "config.json").read_text())["backbone_config"]
    here = variant(folders[kind], tmp_path / "changed", backbone_config=backbone | {"out_features": features})
    refuse_import(here, tmp_path / "ours.safetensors", "config.json")


NAMES = {str(index): f"name {index}" for index in range(6)}
LABELS = [
    (NAMES | {"six": "x"}, "'six' is none of the 6 classes"),
    (NAMES | {"6": "x"}, "'6' is none of the 6 classes"),
    (NAMES | {"-1": "x"}, "'-1' is none of the 6 classes"),
    (NAMES | {"01": "x"}, "'01' is none of the 6 classes"),
    (NAMES | {"2": 2}, "the name of class 2 is 2"),
    (NAMES | {"2": None}, "the name of class 2 is None"),
    ({key: name for key, name in NAMES.items() if key != "3"}, "class 3 has no name"),
    (["a"] * 6, "id2label is a list, expected an object"),
]


@pytest.mark.parametrize(("labels", "words"), LABELS)
def test_names_of_other_classes_are_refused(folders, tmp_path, labels, words):
    refuse_import(variant(folders["dab"], tmp_path / "a", id2label=labels), tmp_path / "ours.safetensors", words)


def with_size(folder, here, **preprocessor):
    variant(folder, here)
    (here / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return here


GOOD = [
    ({"size": {"shortest_edge": 480, "longest_edge": 640}}, (480, 640)),
    ({"size": {"shortest_edge": 480}, "max_size": 640}, (480, 640)),
    ({"size": 480, "max_size": 640}, (480, 640)),
    ({"size": 480}, (480, 1333)),
    ({}, (800, 1333)),
]


@pytest.mark.parametrize(("preprocessor", "sides"), GOOD)
def test_every_form_of_an_image_size_is_read(folders, tmp_path, preprocessor, sides):
    info = imported(with_size(folders["dab"], tmp_path / "a", **preprocessor), tmp_path / "ours.safetensors").info
    assert (info.short_side, info.long_side) == sides


NO_SIDES = [0, -5, 7, 10**6, "800", [800], True, 800.0, float("nan"), None]
BAD = [
    *(({"shortest_edge": value, "longest_edge": 1333}, "size, shortest_edge is ") for value in NO_SIDES),
    *(({"shortest_edge": 800, "longest_edge": value}, "size, longest_edge is ") for value in NO_SIDES[:-1]),
    *((value, "size is ") for value in (0, -5, "800", [800, 1333], True, 800.0)),
    ({"height": 800, "width": 800}, "size says 'height, width'; it must say shortest_edge and longest_edge"),
    ({"shortest_edge": 800}, "size says 'shortest_edge'"),
    ({"longest_edge": 1333}, "size says 'longest_edge'"),
    ({"max_height": 800, "max_width": 800}, "size says 'max_height, max_width'"),
    ({}, "size says 'nothing'"),
]


@pytest.mark.parametrize(("size", "words"), BAD, ids=str)
def test_an_image_size_that_is_none_is_refused_with_file_and_key(folders, tmp_path, size, words):
    here = with_size(folders["dab"], tmp_path / "a", size=size)
    refuse_import(here, tmp_path / "ours.safetensors", f"preprocessor_config.json: {words}")


def changed_weights(folder, here, change):
    variant(folder, here)
    state = change(load_file(folder / "model.safetensors"))
    (here / "model.safetensors").unlink()
    save_file({key: value.contiguous() for key, value in state.items()}, here / "model.safetensors")
    return here


QUERY = "model.encoder.layers.0.self_attn.q_proj.weight"
TENSORS = {
    "nan": (QUERY, lambda tensor: tensor * float("nan"), "holds NaN"),
    "integers": (QUERY, lambda tensor: tensor.int(), "is of int32"),
    "no dimension": (QUERY, lambda tensor: tensor.sum(), "has shape []"),
    "another shape": (QUERY, lambda tensor: tensor[:3], "unlike"),
    "no classes": ("class_embed.weight", lambda tensor: tensor.sum(), "has shape []"),
    "two dimensions more": ("class_embed.weight", lambda tensor: tensor[None, None], "expected a matrix"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_weights_that_are_none_are_refused_by_name(folders, tmp_path, kind):
    key, change, words = TENSORS[kind]
    here = changed_weights(folders["dab"], tmp_path / "a", lambda state: state | {key: change(state[key])})
    refuse_import(here, tmp_path / "ours.safetensors", words)


def test_tied_tensors_that_differ_are_refused(folders, tmp_path):
    def untied(state):
        key = "bbox_predictor.layers.0.weight"
        return state | {key.replace("bbox_predictor", "model.decoder.bbox_embed"): state[key] + 1}

    here = changed_weights(folders["dab"], tmp_path / "a", untied)
    refuse_import(here, tmp_path / "ours.safetensors", "another tensor in its place, which differ")


def test_wrapped_weights_are_imported_by_their_key(folders, tmp_path):
    here = variant(folders["dab"], tmp_path / "a")
    state = load_file(here / "model.safetensors")
    (here / "model.safetensors").unlink()
    content = {"state_dict": state, "ema": {key: value * 2 for key, value in state.items()}}
    torch.save(content, here / "pytorch_model.bin")
    refuse_import(here, tmp_path / "ours.safetensors", "several sets of weights: state_dict, ema;")
    assert main([str(here), "--key", "ema", "--output", str(tmp_path / "ours.safetensors")]) == 0
    assert torch.equal(load_file(tmp_path / "ours.safetensors")["class_embed.bias"], 2 * state["class_embed.bias"])


def test_an_output_that_cannot_be_written_is_one_line(folders, tmp_path):
    (tmp_path / "file").write_text("")
    for output, words in (("file/ours.safetensors", "cannot be written"), ("", "is a folder")):
        with pytest.raises(UserError, match=words) as error:
            main([str(folders["dab"]), "--output", str(tmp_path / output)])
        assert str(tmp_path / output) in str(error.value)
        assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["file"]


def test_a_checkpoint_of_this_project_is_nothing_to_import(folders, tmp_path):
    here = variant(folders["dab"], tmp_path / "a")
    imported(here, tmp_path / "ours.safetensors")
    (here / "model.safetensors").unlink()
    (tmp_path / "ours.safetensors").rename(here / "model.safetensors")
    refuse_import(here, tmp_path / "again.safetensors", "is a checkpoint of this project")


def test_loading_a_wrapped_huggingface_file_says_what_to_do(folders, tmp_path):
    torch.save({"state_dict": load_file(folders["dab"] / "model.safetensors")}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "tools/import_hf.py")
