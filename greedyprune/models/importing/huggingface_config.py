"""The `config.json` and `preprocessor_config.json` of a HuggingFace `transformers` model, checked as they are read."""

from collections.abc import Collection

from greedyprune.errors import UserError
from greedyprune.models.backbone import RESNETS
from greedyprune.models.importing.config import Config
from greedyprune.ranges import PIXELS, shown

_NEEDED_OF_RESNET = (
    ("hidden_act", "relu", "relu"),
    ("downsample_in_bottleneck", False, False),
    ("downsample_in_first_stage", False, False),
)


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
