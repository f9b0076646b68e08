"""What a Darknet `.cfg` file says: the layers of a detector, and its region layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from greedyprune.errors import UserError
from greedyprune.models.darknet.sections import Section, read_sections
from greedyprune.ranges import AMOUNT, COUNT, POSITIVE, SHARE, Range, shown

ACTIVATIONS = ("leaky", "linear", "relu")
COORDINATES = 5  # of a box before its classes: x, y, width, height, objectness
_FLAG, _FILTERS, _KERNEL, _STRIDE = Range(int, 0, 1), Range(int, 1, 65_536), Range(int, 1, 31), Range(int, 1, 32)
_SIDE = Range(int, 8, 65_535)


@dataclass(frozen=True)
class Convolutional:
    """A convolution whose maps are as large as its input, over the stride: its kernel is odd, its padding half of it.

    Attributes:
        filters: output channels.
        size: side of the kernel.
        stride: of the kernel.
        groups: of channels.
        normalised: batch normalisation stands in the bias's place.
        activation: leaky, linear or relu.
    """

    filters: int
    size: int = 1
    stride: int = 1
    groups: int = 1
    normalised: bool = False
    activation: str = "linear"


@dataclass(frozen=True)
class MaxPool:
    """The largest of a window.

    Attributes:
        size: side of the window.
        stride: of the windows; with 1 maps keep their size.
    """

    size: int
    stride: int


@dataclass(frozen=True)
class Route:
    """Earlier outputs, one after another in the channels.

    Attributes:
        sources: their layers.
    """

    sources: tuple[int, ...]


@dataclass(frozen=True)
class Shortcut:
    """The output before it, and that of an earlier layer added to it.

    Attributes:
        source: the earlier layer.
        activation: leaky, linear or relu, of the sum.
    """

    source: int
    activation: str = "linear"


@dataclass(frozen=True)
class Reorg:
    """Squares of pixels put into the channels.

    Attributes:
        stride: side of the squares.
    """

    stride: int


@dataclass(frozen=True)
class Region:
    """What the channels of the last map mean, and what its loss weighs (Redmon and Farhadi 2017, "YOLO9000").

    Attributes:
        anchors: width and height of every anchor, in cells.
        classes: number of classes.
        coord_scale: weight of the boxes' errors,
        object_scale: of the objectness where there is an object,
        noobject_scale: of that where there is none,
        class_scale: and of the classes.
        thresh: a prediction that overlaps some object more (IoU) is not held to find nothing.
        rescore: the objectness learns the overlap of its own box; else 1.
    """

    anchors: tuple[tuple[float, float], ...]
    classes: int
    coord_scale: float = 1.0
    object_scale: float = 1.0
    noobject_scale: float = 1.0
    class_scale: float = 1.0
    thresh: float = 0.5
    rescore: bool = False

    @property
    def channels(self) -> int:
        """Channels of the last map."""
        return len(self.anchors) * (COORDINATES + self.classes)


Layer = Convolutional | MaxPool | Route | Shortcut | Reorg


@dataclass(frozen=True)
class Cfg:
    """A detector.

    Attributes:
        height: of the images that it is given, in pixels.
        width: of these images.
        layers: front to back; sources are places in them.
        region: what the last one's output means.
    """

    height: int
    width: int
    layers: tuple[Layer, ...]
    region: Region

    @property
    def convolutions(self) -> tuple[int, ...]:
        """The layers that are convolutions."""
        return tuple(number for number, layer in enumerate(self.layers) if isinstance(layer, Convolutional))

    @property
    def filters(self) -> tuple[int, ...]:
        """Output channels of every convolution."""
        return tuple(layer.filters for layer in self.layers if isinstance(layer, Convolutional))

    def with_filters(self, filters: Sequence[int]) -> "Cfg":
        """The same with other numbers of output channels, one for every convolution.

        One with a group for each channel that it reads has as many groups as it then reads.
        """
        given = dict(zip(self.convolutions, filters, strict=True))
        layers = (
            replace(layer, filters=given[number]) if isinstance(layer, Convolutional) else layer
            for number, layer in enumerate(self.layers)
        )
        found, before = replace(self, layers=tuple(layers)), self.channels()
        after = found.channels()
        for number, layer in enumerate(found.layers):
            source = self.reads(number)[0]
            if isinstance(layer, Convolutional) and source >= 0 and 1 < layer.groups == before[source]:
                grouped = replace(layer, groups=after[source])
                found = replace(found, layers=(*found.layers[:number], grouped, *found.layers[number + 1 :]))
        return found

    def for_classes(self, classes: int) -> "Cfg":
        """The same for another number of classes."""
        region = replace(self.region, classes=classes)
        return replace(self.with_filters((*self.filters[:-1], region.channels)), region=region)

    def reads(self, number: int) -> tuple[int, ...]:
        """The layers whose outputs a layer reads; -1 is the image."""
        layer = self.layers[number]
        if isinstance(layer, Route):
            return layer.sources
        return (number - 1, layer.source) if isinstance(layer, Shortcut) else (number - 1,)

    def channels(self) -> list[int]:
        """Channels that every layer gives."""
        found: list[int] = []
        for number, layer in enumerate(self.layers):
            given = [3 if source < 0 else found[source] for source in self.reads(number)]
            if isinstance(layer, Convolutional):
                found.append(layer.filters)
            elif isinstance(layer, Reorg):
                found.append(given[0] * layer.stride**2)
            else:
                found.append(sum(given) if isinstance(layer, Route) else given[0])
        return found

    def strides(self) -> list[int]:
        """Pixels of the image between the cells of every layer's maps."""
        found: list[int] = []
        for number, layer in enumerate(self.layers):
            first = self.reads(number)[0]
            before = 1 if first < 0 else found[first]
            found.append(before * getattr(layer, "stride", 1))
        return found

    @property
    def stride(self) -> int:
        """Pixels that the sides of images are multiples of."""
        return max(self.strides())


def read_cfg(text: str, source: str) -> Cfg:
    """The detector of a file's text.

    Args:
        text: the file.
        source: what messages call it.

    Raises:
        UserError: names the section and the line that is not understood, or does not fit the others.
    """
    sections = read_sections(text, source)
    if not sections or sections[0].name not in ("net", "network"):
        raise UserError(f"{source} does not begin with [net]; give a detector's .cfg file")
    net, *rest = sections
    height, width = (net.whole(side, None, _SIDE) for side in ("height", "width"))
    if net.whole("channels", 3, COUNT) != 3:
        net.refuse("is not 3; images are RGB", "channels")
    layers: list[Layer] = []
    region: Region | None = None
    for section in rest:
        if region is not None:
            section.refuse("stands after [region], which must be the last one")
        if section.name == "region":
            region = _region(section)
        elif section.name in _READERS:
            layers.append(_READERS[section.name](section, len(layers)))
        else:
            section.refuse(f"is not supported; supported are {', '.join(_READERS)} and region")
    if region is None:
        raise UserError(f"{source} has no [region] at its end, so that it is no detector of the YOLOv2 kind")
    cfg = Cfg(height, width, tuple(layers), region)
    _check(cfg, rest)
    return cfg


def load_cfg(path: Path) -> Cfg:
    """The detector of a file.

    Raises:
        UserError: the file cannot be read; see also `read_cfg`.
    """
    try:
        return read_cfg(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UserError(f"cfg {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"cfg {path} is no text; give a detector's .cfg file") from None


def _convolutional(section: Section, number: int) -> Layer:
    section.only(
        "filters", "size", "stride", "pad", "padding", "groups", "batch_normalize", "activation"
    )  # fmt: skip
    size = section.whole("size", 1, _KERNEL)
    padding = size // 2 if section.whole("pad", 0, _FLAG) else section.whole("padding", 0, Range(int, 0, 31))
    if size % 2 == 0:
        section.refuse("is even: its maps would not lie over those that it reads", "size")
    if padding != size // 2:
        section.refuse(f"a kernel of {size} needs a padding of {size // 2} (pad=1), it has {padding}")
    return Convolutional(
        section.whole("filters", 1, _FILTERS),
        size,
        section.whole("stride", 1, _STRIDE),
        section.whole("groups", 1, _FILTERS),
        bool(section.whole("batch_normalize", 0, _FLAG)),
        _activation(section, "logistic"),  # Darknet's default
    )


def _maxpool(section: Section, number: int) -> Layer:
    section.only("size", "stride")
    stride = section.whole("stride", 1, _STRIDE)
    return MaxPool(section.whole("size", stride, _KERNEL), stride)


def _route(section: Section, number: int) -> Layer:
    section.only("layers")
    return Route(tuple(_source(section, "layers", each, number) for each in section.wholes("layers")))


def _shortcut(section: Section, number: int) -> Layer:
    section.only("from", "activation")
    sources = section.wholes("from")
    if len(sources) != 1:
        section.refuse("names several layers; a shortcut is from one", "from")
    return Shortcut(_source(section, "from", sources[0], number), _activation(section, "linear"))


def _reorg(section: Section, number: int) -> Layer:
    section.only("stride")
    return Reorg(section.whole("stride", 1, _STRIDE))


def _source(section: Section, key: str, named: int, number: int) -> int:
    """The layer that a number names: counted back from the section if it is negative, else from the first one."""
    source = number + named if named < 0 else named
    if not 0 <= source < number:
        section.refuse(f"names layer {source}; before this section there are layers 0 to {number - 1}", key)
    return source


def _activation(section: Section, default: str) -> str:
    found = section.text("activation", default)
    if found not in ACTIVATIONS:
        what = "is not supported" if "activation" in section.values else f"the activation is {default}, not supported"
        section.refuse(f"{what}; supported are {', '.join(ACTIVATIONS)}", "activation")
    return found


def _region(section: Section) -> Region:
    # What these say is of Darknet's own training; options of tools/train.py say it here.
    section.only(
        "anchors", "classes", "num", "coords", "softmax", "bias_match", "rescore", "coord_scale", "object_scale",
        "noobject_scale", "class_scale", "thresh", "absolute", "random", "jitter",
    )  # fmt: skip
    for key, only, default in (("coords", 4, 4), ("softmax", 1, 0), ("bias_match", 1, 0)):
        if section.whole(key, default, Range(int, 0)) != only:
            section.refuse("is not supported" if key in section.values else f"has no {key}={only}", key)
    sides = section.numbers("anchors", POSITIVE)
    count = section.whole("num", 1, _FILTERS)
    if len(sides) != 2 * count:
        section.refuse(f"has {len(sides)} numbers; num={count} anchors have {2 * count}", "anchors")
    scale = {name: section.number(name, 1.0, AMOUNT) for name in _SCALES}
    return Region(
        tuple(zip(sides[::2], sides[1::2], strict=True)),
        section.whole("classes", None, _FILTERS),
        **scale,
        thresh=section.number("thresh", 0.5, SHARE),
        rescore=bool(section.whole("rescore", 0, _FLAG)),
    )


_SCALES = ("coord_scale", "object_scale", "noobject_scale", "class_scale")
_READERS: dict[str, Callable[[Section, int], Layer]] = {
    "convolutional": _convolutional,
    "maxpool": _maxpool,
    "route": _route,
    "shortcut": _shortcut,
    "reorg": _reorg,
}


def _check(cfg: Cfg, sections: Sequence[Section]) -> None:
    """Refuse layers that do not fit each other."""
    if not cfg.layers or not isinstance(cfg.layers[-1], Convolutional):
        sections[-1].refuse("the layer before it is no [convolutional], whose channels it reads")
    if cfg.filters[-1] != cfg.region.channels:
        sections[-2].refuse(
            f"has {cfg.filters[-1]} filters; {len(cfg.region.anchors)} anchors of {cfg.region.classes} classes need "
            f"{cfg.region.channels}"
        )
    channels, strides = cfg.channels(), cfg.strides()
    for number, (layer, section) in enumerate(zip(cfg.layers, sections, strict=False)):
        reads = [source for source in cfg.reads(number) if source >= 0]
        if len({strides[source] for source in reads}) > 1:
            section.refuse("joins maps of different sizes")
        given = channels[reads[0]] if reads else 3
        if isinstance(layer, Shortcut) and channels[layer.source] != given:
            section.refuse(f"adds {channels[layer.source]} channels to {given}")
        if isinstance(layer, Convolutional) and (given % layer.groups or layer.filters % layer.groups):
            section.refuse(f"divides neither or only one of {given} and {layer.filters} channels", "groups")
    for side in (cfg.height, cfg.width):
        if side % cfg.stride:
            raise UserError(
                f"{sections[0].source}, [net]: width and height are {shown(cfg.width)} and {shown(cfg.height)}; they "
                f"must be multiples of {cfg.stride}"
            )
