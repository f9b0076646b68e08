"""What MMEngine writes beside the weights of a detector of MMDetection: its configuration, and the classes' names.

The configuration is Python as text. It is read as data (see `read_settings`), whatever structure its version gave it: a
setting is found by its name. What changes the arithmetic and this project's models cannot express is refused.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from greedyprune.coco_classes import COCO_IDS
from greedyprune.errors import UserError
from greedyprune.models.importing.config import Config
from greedyprune.models.importing.config_text import parts_with, read_settings
from greedyprune.models.importing.mmdetection import is_deformable, is_mmdetection
from greedyprune.models.options import ModelInfo
from greedyprune.ranges import PIXELS, POSITIVE, SHARE_BELOW_ONE, shown

# Settings that change the arithmetic: name, the value that is needed, what is meant where that is unset.
_BACKBONE = (
    ("style", "pytorch", "pytorch"),  # "caffe" has the stride in another convolution
    ("strides", [1, 2, 2, 2], [1, 2, 2, 2]),
    ("dilations", [1, 1, 1, 1], [1, 1, 1, 1]),  # dilated otherwise than torchvision's
    *((name, False, False) for name in ("deep_stem", "avg_down")),
    *((name, None, None) for name in ("conv_cfg", "dcn", "plugins")),
)
_PIXELS = (
    ("mean", [123.675, 116.28, 103.53], None),
    ("std", [58.395, 57.12, 57.375], None),
    ("bgr_to_rgb", True, False),
)
_ACTIVATIONS = {"ReLU": "relu", "GELU": "gelu", "PReLU": "prelu"}
_CLASSES = ("classes", "CLASSES")  # of today's versions, and of older ones


@dataclass(frozen=True)
class Told:
    """What a file tells beside the tensors.

    Attributes:
        arguments: under the names of the published code's training arguments.
        options: options of the model.
        names: of the classes, by label; empty: not known.
        sides: `short_side` and `long_side` of images.
        place: where the names were read, for messages.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    sides: dict[str, int] = field(default_factory=dict)
    place: str = ""

    def info(self, count: int) -> ModelInfo:
        """What the labels mean, and the image size.

        Args:
            count: labels of the model. Those beyond the names, of heads wider than the data needed, have none.

        Raises:
            UserError: there are more names than labels.
        """
        if len(self.names) > count:
            raise UserError(f"{self.place} has {len(self.names)} names, the weights have {count} classes")
        ids = tuple(COCO_IDS.values()) if self.names == tuple(COCO_IDS) and count == len(COCO_IDS) else ()
        names = (*self.names, *[""] * (count - len(self.names))) if self.names else ()
        return ModelInfo(names, ids, **self.sides)


def read_meta(meta: Any, state: Mapping[str, Tensor], place: str) -> Told:
    """What `meta` tells of a detector; nothing, where it is not of MMDetection.

    Args:
        meta: what the checkpoint has under this name; None: nothing.
        state: the weights, under MMDetection's names.
        place: the checkpoint, for messages.

    Raises:
        UserError: a value of another type or range, or a setting that this project's models do not have.
    """
    if meta is None or not is_mmdetection(state):
        return Told()
    about = Config(_mapping(meta, f"{place}: meta"), f"{place}: meta")
    names, where = _class_names(about)
    text = about.text("cfg", "")
    settings = read_settings(text, f"{about.place}.cfg")
    whole = Config(settings, f"{about.place}.cfg")
    if "model" not in settings:
        return Told(names=names, place=where)
    arguments, options = _model(whole.part("model"), is_deformable(state))
    return Told(arguments, options, names, _sides(whole), where)


def _class_names(about: Config) -> tuple[tuple[str, ...], str]:
    """The classes' names, and where they were found."""
    for part in (about.part("dataset_meta"), about):
        for name in _CLASSES:
            listed = part.values.get(name)
            if listed is None:
                continue
            place = f"{part.place}, {name}"
            if not isinstance(listed, (list, tuple)) or not all(isinstance(each, str) for each in listed):
                raise UserError(f"{place} is {shown(listed)}, expected a list of names")
            return tuple(listed), place
    return (), ""


def _model(model: Config, deformable: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the tensors do not tell, as training arguments and as options."""
    _check_images(model)
    arguments, options = _layers(model)
    for positions in _parts(model, "positional_encoding", "positional_encoding_cfg"):
        positions.need((("normalize", True, False), ("offset", -0.5 if deformable else 0, 0)))
        scale = positions.number("scale", POSITIVE, 2 * math.pi)
        if not math.isclose(scale, 2 * math.pi, rel_tol=1e-6):
            raise UserError(f"{positions.place}: scale is {scale}; only 2 pi can be imported")
        temperature = float(positions.number("temperature", POSITIVE, 10_000))
        options |= {"temperature_h": temperature, "temperature_w": temperature}
    for name in ("num_query", "num_queries"):
        for part in parts_with(model.values, name):
            arguments["num_queries"] = Config(part, model.place).count(name, 300)
    if deformable:
        for part in parts_with(model.values, "with_box_refine"):
            options["with_box_refine"] = Config(part, model.place).flag("with_box_refine")
    return arguments, options


def _check_images(model: Config) -> None:
    """Refuse another backbone than ResNet, or other pixel values than ImageNet's."""
    backbone = model.part("backbone")
    kind = _type(backbone, "ResNet")
    if kind != "ResNet":
        raise UserError(f"{backbone.place}: type is {shown(kind)}; only ResNet can be imported")
    backbone.need(_BACKBONE)
    pixels = model.part("data_preprocessor")
    if pixels.values:
        pixels.need(_PIXELS)


def _layers(model: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """Heads, dropout and the activation of the Transformer's layers, as training arguments and as options."""
    arguments: dict[str, Any] = {}
    options: dict[str, Any] = {}
    heads = {part.count("num_heads", 8) for part in _parts(model, "self_attn_cfg", "cross_attn_cfg", "attn_cfgs")}
    feedforward = list(_parts(model, "ffn_cfg", "ffn_cfgs"))
    kinds = {_type(part.part("act_cfg"), "ReLU") for part in feedforward}
    for what, found in (("heads", heads), ("activations", kinds)):
        if len(found) > 1:
            each = ", ".join(sorted(map(str, found)))
            raise UserError(f"{model.place}: its layers have different {what}: {each}; they need the same here")
    for kind in kinds:
        if kind not in _ACTIVATIONS:
            raise UserError(f"{model.place}: the activation is {shown(kind)}; {', '.join(_ACTIVATIONS)} can be")
        options["activation"] = _ACTIVATIONS[kind]
    for count in heads:
        arguments["nheads"] = count
    dropouts = {part.number("ffn_drop", SHARE_BELOW_ONE, 0.0) for part in feedforward}
    if dropouts:
        arguments["dropout"] = max(dropouts)
    return arguments, options


def _sides(whole: Config) -> dict[str, int]:
    """Sides of images as tests resize them; empty: not told."""
    for name in ("test_dataloader", "val_dataloader", "test_pipeline", "val_pipeline"):
        for step in parts_with(whole.values.get(name), "scale"):
            resize = Config(step, f"{whole.place}, {name}")
            if _type(resize, "") != "Resize":
                continue
            resize.need((("keep_ratio", True, False),))
            scale = resize.listed("scale")
            if len(scale) != 2:
                raise UserError(f"{resize.place}: scale has {len(scale)} numbers, expected 2")
            for side in scale:
                PIXELS.check(side, f"{resize.place}: scale")
            return {"short_side": min(scale), "long_side": max(scale)}
    return {}


def _parts(config: Config, *names: str) -> Iterator[Config]:
    """All parts with one of these names, at any depth; of a list its items."""
    for name in names:
        for holder in parts_with(config.values, name):
            found = holder[name]
            for each in found if isinstance(found, list) else [found]:
                place = f"{config.place}, {name}"
                yield Config(_mapping({} if each is None else each, place), place)


def _type(part: Config, unset: str) -> str:
    """The class that a part is built as, without its module."""
    return part.text("type", unset).rpartition(".")[2]


def _mapping(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{place} is {shown(value)}, expected settings by name")
    return value
