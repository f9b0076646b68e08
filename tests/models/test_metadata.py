"""What a file of this project says of its model is checked by type and range before a model is built."""

import json
import resource
import struct
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from greedyprune import UserError, build_model, load_model
from greedyprune.models import MODELS, ModelInfo

from .small_model import SHAPE, refused


@pytest.fixture(scope="module")
def about(ours):
    with ours.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return json.loads(header["__metadata__"]["greedyprune"])


@pytest.fixture
def rewritten(ours, tmp_path):
    """Write the checkpoint with another description."""

    def write(text):
        save_file(load_file(ours), tmp_path / "changed.safetensors", {"greedyprune": text})
        return tmp_path / "changed.safetensors"

    return write


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, '"text"', "null", "3", "NaN", '{"format": 1'])
def test_a_description_that_is_no_object_is_refused(rewritten, text):
    refused(rewritten(text), "damaged metadata")


PARTS = {
    "no cfgs": ({"cfgs": None}, "its cfgs are None"),
    "cfgs as text": ({"cfgs": "[]"}, "its cfgs are '[]'"),
    "cfgs of one part": ({"cfgs": [[[32]]]}, "its metadata's cfgs has 1 parts"),
    "cfgs with text": (
        {"cfgs": [[["32", 48], [32, 48]], [[32, 32, 48]] * 2]},
        "its metadata's cfgs: encoder layer 0: attn is '32'",
    ),
    "cfgs with an object": (
        {"cfgs": [[{}, [32, 48]], [[32, 32, 48]] * 2]},
        "its metadata's cfgs: encoder layer 0 is a dict",
    ),
    "cfgs of fewer layers": ({"cfgs": [[[32, 48]], [[32, 32, 48]]]}, "cfgs has 1 encoder layers, the model has 2"),
    "options as a number": ({"options": 3}, "its options are 3"),
    "options as a list": ({"options": []}, "its options are a list"),
    "info as a number": ({"info": 3}, "its info are 3"),
    "unknown info": ({"info": {"colour": 1}}, "info 'colour' is unknown"),
    "another model": ({"model": "yolo"}, "'yolo'"),
    "a list of models": ({"model": ["dn_detr"]}, "this version knows dn_detr"),
    "a newer format": ({"format": 2}, "newer version"),
    "a format of text": ({"format": "1"}, "newer version"),
}


@pytest.mark.parametrize("kind", PARTS)
def test_a_part_of_another_type_is_named(rewritten, about, kind):
    change, words = PARTS[kind]
    refused(rewritten(json.dumps(about | change)), words)


WRONG_NUMBERS = ["4", 4.5, True, None, [4], {}, -1, 10**9, 2**63, 10**400, float("nan"), float("inf")]
COUNTS = ("num_classes", "hidden_dim", "heads", "enc_layers", "dec_layers", "ffn_dim", "num_queries", "num_patterns")


@pytest.mark.parametrize("value", WRONG_NUMBERS, ids=lambda value: f"{value}"[:12])
@pytest.mark.parametrize("name", COUNTS)
def test_a_count_of_another_type_or_range_is_named(rewritten, about, name, value):
    options = about["options"] | {name: value}
    refused(rewritten(json.dumps(about | {"options": options})), f"option {name} is ")


OPTIONS = [
    *(("hidden_dim", value) for value in (0, 65_540, 30)),
    *((name, value) for name in ("temperature_h", "temperature_w") for value in ("20", 0, -1, True, [], float("nan"))),
    *(("dropout", value) for value in (1, -0.1, "0", float("inf"), None)),
    *(
        (name, value)
        for name in ("dilation", "whole_heads", "pre_norm", "freeze_norm")
        for value in (0, "no", None, [])
    ),
    *((name, value) for name in ("backbone", "activation") for value in (3, None, ["relu"], {}, "swin", True)),
    ("mood", 4),
]


@pytest.mark.parametrize(("name", "value"), OPTIONS, ids=lambda value: f"{value}"[:16])
def test_an_option_of_another_type_or_range_is_named(rewritten, about, name, value):
    refused(rewritten(json.dumps(about | {"options": about["options"] | {name: value}})), "option", name)


INFO = [
    ("class_names", "abcdef", "must be a list"),
    ("class_names", 6, "must be a list"),
    ("class_names", ["a", 1, "c", "d", "e", "f"], "name 1 of the model's classes is 1"),
    ("class_names", ["a", None, "c", "d", "e", "f"], "name 1 of the model's classes is None"),
    ("class_names", [["a"]] * 6, "name 0 of the model's classes is a list"),
    ("class_names", ["a", "b"], "the model has 6 classes and 2 class names"),
    ("category_ids", {"a": 1}, "must be a list"),
    ("category_ids", [1, 2, 3], "the model has 6 classes and 3 category ids"),
    ("category_ids", [1, 2, 3, 4, 5, 5], "category id 5 twice"),
    *(
        ("category_ids", [1, 2, 3, 4, 5, value], "category id 5 of the model is")
        for value in (-1, 2**63, "6", 6.0, True)
    ),
    *((name, value, f"{name} of the model") for name in ("short_side", "long_side") for value in WRONG_NUMBERS),
    *((name, 7, f"{name} of the model is 7") for name in ("short_side", "long_side")),
]


@pytest.mark.parametrize(("name", "value", "words"), INFO, ids=lambda value: f"{value}"[:16])
def test_what_it_says_of_its_classes_and_images_is_checked(rewritten, about, name, value, words):
    refused(rewritten(json.dumps(about | {"info": about["info"] | {name: value}})), words)


def test_a_model_that_its_tensors_are_not_takes_no_memory(rewritten, about):
    """Some hundred gigabytes would be built if the description were believed."""
    options = about["options"] | {"hidden_dim": 65_536, "ffn_dim": 65_536, "num_queries": 100_000}
    path = rewritten(json.dumps(about | {"cfgs": [[[65_536, 65_536]] * 2, [[65_536] * 3] * 2], "options": options}))
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(status["VmData"].split()[0]) * 1024 + 2**29, limits[1]))
    try:
        refused(path, "is of another model", "here it is [65536")
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)


def test_tensors_of_another_shape_than_it_says_are_named(rewritten, about):
    options = about["options"] | {"num_queries": 9}
    refused(rewritten(json.dumps(about | {"options": options})), "refpoint_embed", "[7, 4], here it is [9, 4]")


@pytest.mark.parametrize("name", MODELS)
def test_the_defaults_of_every_model_are_in_range(name):
    options = MODELS[name].options()
    assert MODELS[name].options.from_dict(options.to_dict()) == options


@pytest.mark.parametrize(
    ("info", "words"),
    [(ModelInfo(("a",)), "6 classes and 1 class names"), (ModelInfo((), (1, 2)), "6 classes and 2 category ids")],
)
def test_names_of_another_number_of_classes_are_refused_when_a_model_is_built(info, words):
    with pytest.raises(UserError, match=words):
        build_model("dn_detr", info=info, **SHAPE)


def test_metadata_of_numbers_written_otherwise_is_read(rewritten, about):
    path = rewritten(json.dumps(about | {"options": about["options"] | {"temperature_h": 10, "dropout": 0}}))
    assert load_model(path).options.temperature_h == 10
