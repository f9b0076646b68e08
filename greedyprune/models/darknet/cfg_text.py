"""Darknet's `.cfg` files, written."""

from collections.abc import Mapping

from greedyprune.models.darknet.cfg import Cfg, Convolutional, Layer, MaxPool, Region, Reorg, Route, Shortcut


def cfg_text(cfg: Cfg) -> str:
    """The text of a detector; `read_cfg` reads the same detector in it, and so does Darknet."""
    parts = [_section("net", {"width": cfg.width, "height": cfg.height, "channels": 3})]
    parts += [_layer(layer, number) for number, layer in enumerate(cfg.layers)]
    return "\n".join([*parts, _region(cfg.region)])


def _section(name: str, values: Mapping[str, object]) -> str:
    return "".join([f"[{name}]\n", *(f"{key}={value}\n" for key, value in values.items())])


def _layer(layer: Layer, number: int) -> str:
    if isinstance(layer, Convolutional):
        grouped = {"groups": layer.groups} if layer.groups > 1 else {}
        norm = {"batch_normalize": 1} if layer.normalised else {}
        shape = {"filters": layer.filters, "size": layer.size, "stride": layer.stride, "pad": 1}
        return _section("convolutional", {**norm, **shape, **grouped, "activation": layer.activation})
    if isinstance(layer, MaxPool):
        return _section("maxpool", {"size": layer.size, "stride": layer.stride})
    if isinstance(layer, Route):
        return _section("route", {"layers": ",".join(str(source - number) for source in layer.sources)})
    if isinstance(layer, Shortcut):
        return _section("shortcut", {"from": layer.source - number, "activation": layer.activation})
    assert isinstance(layer, Reorg)
    return _section("reorg", {"stride": layer.stride})


def _region(region: Region) -> str:
    anchors = ", ".join(f"{width!r},{height!r}" for width, height in region.anchors)
    about = {"anchors": anchors, "bias_match": 1, "classes": region.classes, "coords": 4, "num": len(region.anchors)}
    scales = {name: getattr(region, name) for name in ("coord_scale", "object_scale", "noobject_scale", "class_scale")}
    other = {"softmax": 1, "rescore": int(region.rescore), "thresh": region.thresh}
    return _section("region", {**about, **other, **scales})
