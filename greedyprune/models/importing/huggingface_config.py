"""The `config.json` and `preprocessor_config.json` of a HuggingFace `transformers` model, checked as they are read."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from greedyprune.errors import UserError
from greedyprune.models.backbone import RESNETS
from greedyprune.ranges import PIXELS, Range, shown

Value = TypeVar("Value")

# Layers, channels, queries: what is beyond is a slip, or damage.
_SIZE, _SIZE_OR_NONE = Range(int, 1, 65_536), Range(int, 0, 1_000_000)
_NEEDED_OF_RESNET = (
    ("hidden_act", "relu", "relu"),
    ("downsample_in_bottleneck", False, False),
    ("downsample_in_first_stage", False, False),
)


@dataclass(frozen=True)
class Config:
    """A `config.json` or `preprocessor_config.json`, or an object inside one; every value is checked as it is read.

    Attributes:
        values: what it says.
        place: the file, and the object's name, for messages.
    """

    values: Mapping[str, Any]
    place: str

    def number(self, name: str, allowed: Range, unset: float) -> float:
        """A number, or what is meant where it is unset."""
        value = self.values.get(name)
        if value is None:
            return unset
        allowed.check(value, f"{self.place}: {name}")
        number: float = value
        return number

    def count(self, name: str, unset: int) -> int:
        """A number of layers, channels and the like."""
        return int(self.number(name, _SIZE, unset))

    def flag(self, name: str) -> bool:
        """A switch, off where it is unset."""
        return self._typed(name, bool, "true or false") or False

    def text(self, name: str, unset: str) -> str:
        value = self._typed(name, str, "a text")
        return unset if value is None else value

    def listed(self, name: str) -> list[Any]:
        """A list of numbers or text; empty where it is unset."""
        return self._typed(name, list, "a list") or []

    def part(self, name: str) -> "Config":
        """An object inside it; empty where it is unset."""
        return Config(self._typed(name, dict, "an object") or {}, f"{self.place}, {name}")

    def _typed(self, name: str, kind: type[Value], noun: str) -> Value | None:
        value = self.values.get(name)
        if value is not None and not isinstance(value, kind):
            raise UserError(f"{self.place}: {name} is {shown(value)}, expected {noun}")
        return value

    def need(self, needed: tuple[tuple[str, Any, Any], ...]) -> None:
        """Refuse settings that change the arithmetic: name, the value that is needed, what is meant where unset."""
        for name, value, unset in needed:
            found = self.values.get(name, unset)
            if found != value:
                raise UserError(f"{self.place}: {name} is {shown(found)}; only {value!r} can be imported")

    def agree(self, sizes: Mapping[str, int]) -> None:
        """Refuse a config that gives the model other sizes than its weights have, by the config's names."""
        for name, size in sizes.items():
            if self.number(name, _SIZE_OR_NONE, size) != size:
                raise UserError(f"{self.place}: {name} is {self.values[name]}, the weights have {size}")


def check_halves(config: Config, model: str, ffn: int) -> None:
    """Refuse a model whose encoder and decoder have other heads or FFNs."""
    for same, unset in (("attention_heads", 8), ("ffn_dim", ffn)):
        encoder, decoder = config.count(f"encoder_{same}", unset), config.count(f"decoder_{same}", unset)
        if encoder != decoder:
            raise UserError(
                f"{config.place}: encoder_{same} is {encoder} and decoder_{same} {decoder}; {model} has one for both"
            )


def check_activation(config: Config, unset: str, known: Collection[str]) -> str:
    """The activation function, if it is one of those that the model can have."""
    name = config.text("activation_function", unset)
    if name not in known:
        raise UserError(f"{config.place}: activation_function is {shown(name)}; {', '.join(known)} can be")
    return name


def check_backbone(config: Config) -> Config:
    """The backbone's own settings, if it is a ResNet that can be imported."""
    backbone = config.part("backbone_config")
    if backbone.values.get("model_type") == "resnet":
        backbone.need(_NEEDED_OF_RESNET)
    else:
        name = backbone.text("backbone", "") or config.text("backbone", "") or "resnet50"
        if name.split(".")[0] not in RESNETS:
            raise UserError(f"{config.place}: backbone {shown(name)} is not supported; {', '.join(RESNETS)} are")
    return backbone


def is_dilated(config: Config, backbone: Config) -> bool:
    """Whether the backbone, of these own settings, keeps its last stage's stride at 16."""
    return config.flag("dilation") or backbone.values.get("output_stride") == 16


def class_names(config: Config, number: int) -> tuple[str, ...]:
    """The classes' names by `id2label`; empty where it is unset, or says no more than their numbers.

    Args:
        config: `config.json`.
        number: of classes, as the weights have.

    Raises:
        UserError: a class without a name, a name without a class, or one that is no text.
    """
    labels = config.part("id2label")
    wanted = {str(index): index for index in range(number)}
    for index, name in labels.values.items():
        if index not in wanted:
            raise UserError(f"{labels.place}: {shown(index)} is none of the {number} classes that the weights have")
        if not isinstance(name, str):
            raise UserError(f"{labels.place}: the name of class {index} is {shown(name)}, expected a text")
    if not labels.values:
        return ()
    for index in wanted:
        if index not in labels.values:
            raise UserError(f"{labels.place}: class {index} has no name, the weights have {number} classes")
    names = tuple(labels.values[index] for index in wanted)
    return () if all(name == f"LABEL_{index}" for index, name in enumerate(names)) else names


def image_sides(preprocessor: Config) -> dict[str, int]:
    """`short_side` and `long_side` of images by `size`; empty where it is unset.

    Raises:
        UserError: sides that are no sizes of an image, or a form of `size` that does not keep an image's shape.
    """
    size, place = preprocessor.values.get("size"), f"{preprocessor.place}: size"
    if size is None:
        return {}
    most = preprocessor.values.get("max_size")
    if isinstance(size, dict):
        if "shortest_edge" not in size or not ("longest_edge" in size or most is not None):
            keys = ", ".join(size) or "nothing"
            raise UserError(f"{place} says {shown(keys)}; it must say shortest_edge and longest_edge, in pixels")
        found = {"shortest_edge": size["shortest_edge"], "longest_edge": size.get("longest_edge", most)}
    else:
        found = {"size": size} if most is None else {"size": size, "max_size": most}  # of older versions
    for name, side in found.items():
        PIXELS.check(side, f"{place}, {name}" if isinstance(size, dict) else f"{preprocessor.place}: {name}")
    return dict(zip(("short_side", "long_side"), found.values(), strict=False))
