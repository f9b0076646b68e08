"""What a detector is built from; stored with every checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from greedyprune.errors import UserError
from greedyprune.models.backbone import BACKBONES, dense_widths
from greedyprune.models.layers import ACTIVATIONS, Heads, LayerOptions
from greedyprune.models.layout import DetrShape, detr_layout
from greedyprune.ranges import COUNT_OR_NONE, Pixels, Positive, Range, ShareBelowOne, check_ranges, check_types, shown
from greedyprune.sites.layouts import DetrLayout

if TYPE_CHECKING:
    from typing_extensions import Self

NORM_GROUPS = 32
# Beyond these a damaged file, or a slip of the finger, asks for more memory than there is.
Layers = Annotated[int, Range(int, 1, 1000)]
Channels = Annotated[int, Range(int, 1, 65_536)]
Rows = Annotated[int, Range(int, 1, 100_000)]
Patterns = Annotated[int, Range(int, 0, 1000)]
Few = Annotated[int, Range(int, 1, 100)]


@dataclass(frozen=True)
class DetectorOptions:
    """Options of every detector; the defaults are published R50 models'.

    Attributes:
        num_classes: labels; 91 for COCO's own category ids.
        backbone: resnet18, resnet34, resnet50, resnet101 or small.
        dilation: stride 16 instead of 32 in the backbone's last stage (DC5).
        freeze_norm: keep the small backbone's batch norm statistics while training; ResNets are always frozen.
        hidden_dim: channels of the Transformer's tokens; the full attention width.
        heads: attention heads.
        enc_layers: encoder layers.
        dec_layers: decoder layers.
        ffn_dim: full FFN width.
        num_queries: queries, each an anchor or a proposal.
        activation: prelu, relu or gelu.
        temperature_h: temperature of the image's position embedding along y.
        temperature_w: the same along x.
        dropout: dropout in the Transformer.
        whole_heads: attention is pruned by whole heads, each of which keeps its full width.
    """

    num_classes: Rows = 91
    backbone: str = "resnet50"
    dilation: bool = False
    freeze_norm: bool = False
    hidden_dim: Channels = 256
    heads: Channels = 8
    enc_layers: Layers = 6
    dec_layers: Layers = 6
    ffn_dim: Channels = 2048
    num_queries: Rows = 300
    activation: str = "prelu"
    temperature_h: Positive = 20.0
    temperature_w: Positive = 20.0
    dropout: ShareBelowOne = 0.0
    whole_heads: bool = False
    encoder_mlps: ClassVar[tuple[str, ...]] = ()  # names of the MLPs beside the layers
    decoder_mlps: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_types(self, "option {}".format)
        check_ranges(self, "option {}".format)
        if self.hidden_dim % self.heads or self.hidden_dim % 4:
            raise UserError(
                f"option hidden_dim {self.hidden_dim} is not a multiple of both the {self.heads} heads and 4"
            )
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise UserError(f"option activation {shown(self.activation)} is unknown; choose one of {known}")
        if self.backbone not in BACKBONES:
            raise UserError(f"option backbone {shown(self.backbone)} is unknown; choose one of {', '.join(BACKBONES)}")
        if self.whole_heads and self.hidden_dim == self.heads:
            raise UserError("option whole_heads needs heads of several channels: hidden_dim is the number of heads")

    @property
    def refines(self) -> bool:
        """Every decoder layer has heads of its own, and refines the boxes of the one before it with them."""
        return False

    @property
    def proposes(self) -> bool:
        """Queries start from boxes that a first stage proposes."""
        return False

    @property
    def unit(self) -> int:
        """Channels of an attention that stay or leave together."""
        return self.hidden_dim // self.heads if self.whole_heads else 1

    @property
    def grain(self) -> int:
        """The least width of an attention, of which all others are multiples."""
        return self.unit if self.whole_heads else self.heads

    @property
    def layer(self) -> LayerOptions:
        """What the Transformer's layers have in common."""
        heads = Heads(dim=self.unit) if self.whole_heads else Heads(self.heads)
        return LayerOptions(self.hidden_dim, heads, self.activation, self.dropout)

    @property
    def shape(self) -> DetrShape:
        """What tells the sites and their dense widths."""
        return DetrShape(
            backbone=dense_widths(self.backbone),
            encoder_layers=self.enc_layers,
            decoder_layers=self.dec_layers,
            dim=self.hidden_dim,
            ffn_dim=self.ffn_dim,
            heads=self.heads,
            head_dim=self.unit,
            queries=self.num_queries,
            encoder_mlps=self.encoder_mlps,
            decoder_mlps=self.decoder_mlps,
            own_heads=self.refines,
            two_stage=self.proposes,
        )

    @property
    def layout(self) -> DetrLayout:
        """The list form of the widths, with the dense ones."""
        return _layout(self)

    def dense_widths(self) -> dict[str, int]:
        """Site name -> full width, in the order in which an image meets them."""
        return dict(self.layout.dense)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Self":
        """Options by name.

        Raises:
            UserError: a name that is not an option.
        """
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise UserError(f"model option {shown(name)} is unknown; the options are {', '.join(sorted(known))}")
        return cls(**values)


@dataclass(frozen=True)
class DABOptions(DetectorOptions):
    """Options of detectors with DAB-DETR's decoder.

    Attributes:
        num_patterns: learned content patterns paired with every anchor; 0: none.
        random_refpoints_xy: the anchors' centres start spread evenly at random.
    """

    num_patterns: Patterns = 0
    random_refpoints_xy: bool = False
    decoder_mlps: ClassVar[tuple[str, ...]] = ("query_scale", "ref_point_head", "ref_anchor_head")


@dataclass(frozen=True)
class DNDETROptions(DABOptions):
    """Options of DN-DETR.

    Attributes:
        pre_norm: a LayerNorm after the last encoder layer; that is all that the published option of this name does.
    """

    pre_norm: bool = False
    encoder_mlps: ClassVar[tuple[str, ...]] = ("query_scale",)


@dataclass(frozen=True)
class PyramidOptions(DetectorOptions):
    """Options of detectors with a deformable encoder.

    Attributes:
        num_feature_levels: sizes of feature maps; those beyond the backbone's are made by convolutions of stride 2.
        enc_n_points: points that a head samples in every level, in the encoder.
    """

    num_feature_levels: Few = 4
    enc_n_points: Few = 4
    activation: str = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_dim % NORM_GROUPS:
            raise UserError(f"option hidden_dim is {self.hidden_dim}; the levels' group norm needs a multiple of 32")


@dataclass(frozen=True)
class DNDeformableEncoderOptions(PyramidOptions, DABOptions):
    """Options of DN-DETR with a deformable encoder.

    Attributes:
        level_attention: queries look at every level apart, and weigh the levels, as in the published variant; else at
            the tokens of all levels together.
    """

    level_attention: bool = False


@dataclass(frozen=True)
class DeformableDecoderOptions(PyramidOptions):
    """Options of detectors with a deformable encoder and decoder.

    Attributes:
        dec_n_points: points that a head samples in every level, in the decoder.
        two_stage: queries start from the best boxes that the encoder proposes; Deformable DETR needs with_box_refine.
    """

    dec_n_points: Few = 4
    two_stage: bool = False
    temperature_h: Positive = 10000.0
    temperature_w: Positive = 10000.0

    @property
    def refines(self) -> bool:
        return True

    @property
    def proposes(self) -> bool:
        return self.two_stage


@dataclass(frozen=True)
class DNDeformableOptions(DeformableDecoderOptions):
    """Options of DN-Deformable-DETR.

    Attributes:
        random_refpoints_xy: the anchors' centres start spread evenly at random.
    """

    random_refpoints_xy: bool = False
    decoder_mlps: ClassVar[tuple[str, ...]] = ("query_scale", "ref_point_head")


@dataclass(frozen=True)
class DeformableOptions(DeformableDecoderOptions):
    """Options of Deformable DETR.

    Attributes:
        with_box_refine: every decoder layer refines the boxes of the one before it, with heads of its own.
    """

    with_box_refine: bool = False
    ffn_dim: Channels = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.two_stage and not self.with_box_refine:
            raise UserError("option two_stage needs with_box_refine: proposals are boxes that the decoder refines")

    @property
    def refines(self) -> bool:
        return self.with_box_refine


@dataclass(frozen=True)
class ModelInfo:
    """What a detector's labels mean and how its images are fed.

    Attributes:
        class_names: a name for every label; may be empty.
        category_ids: the data set's category id of every label; may be empty (labels are the ids).
        short_side: images are resized so that their short side has this many pixels,
        long_side: and their long side at most this many.
    """

    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    short_side: Pixels = 800
    long_side: Pixels = 1333

    def __post_init__(self) -> None:
        check_labels(self.class_names, self.category_ids)
        check_ranges(self, "{} of the model".format)
        check_types(self, "{} of the model".format)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelInfo":
        """What a checkpoint says of the labels; lists become tuples.

        Raises:
            UserError: a name that it does not have, or a value of another type.
        """
        return from_stored(cls, values)

    def check_classes(self, number: int) -> None:
        """Refuse names or ids of another number of classes; none at all are no mistake."""
        for name, listed in (("class names", self.class_names), ("category ids", self.category_ids)):
            if listed and len(listed) != number:
                raise UserError(f"the model has {number} classes and {len(listed)} {name}")


Info = TypeVar("Info")


def from_stored(kind: type[Info], values: Mapping[str, Any]) -> Info:
    """A dataclass about a model from what a checkpoint says of it; lists become tuples.

    Raises:
        UserError: a name that it does not have, or a value that it refuses.
    """
    for name in values:
        if name not in {field.name for field in fields(kind)}:  # type: ignore[arg-type]
            raise UserError(f"model info {shown(name)} is unknown")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def check_labels(names: object, ids: object) -> None:
    """Refuse what are no names and ids of labels.

    Raises:
        UserError: names the first that is no text, or no id of its own.
    """
    for what, listed in (("class_names", names), ("category_ids", ids)):
        if not isinstance(listed, tuple):
            raise UserError(f"{what} of the model is {shown(listed)}, it must be a list")
    assert isinstance(names, tuple)
    assert isinstance(ids, tuple)
    for index, class_name in enumerate(names):
        if not isinstance(class_name, str):
            raise UserError(f"name {index} of the model's classes is {shown(class_name)}, it must be a text")
    for index, category in enumerate(ids):
        COUNT_OR_NONE.check(category, f"category id {index} of the model")
    if len(set(ids)) < len(ids):
        double = next(each for each in ids if ids.count(each) > 1)
        raise UserError(f"the model has category id {double} twice")


@cache
def _layout(options: DetectorOptions) -> DetrLayout:
    return detr_layout(options.shape)
