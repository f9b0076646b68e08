"""Where the layers and class names of a `.weights` file are found."""

from pathlib import Path

from greedyprune.embedded import ASSETS
from greedyprune.errors import UserError
from greedyprune.models.darknet.cfg import Cfg, load_cfg
from greedyprune.text import printable

# Pascal VOC's classes, in the order of all published weights.
VOC_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_SUFFIX = ".cfg"


def packaged() -> list[str]:
    """The cfg files that are shipped."""
    return sorted(path.name for path in ASSETS.glob(f"*{_SUFFIX}"))


def find_cfg(given: Path | None, weights: Path | None) -> Path:
    """The cfg file of a detector.

    Args:
        given: a path, or the name of a shipped file where there is no file of that name; None: the file beside the
            weights that has their name, or the shipped one of that name.
        weights: a `.weights` file; None: there is none.

    Raises:
        UserError: there is no such file.
    """
    shipped = ", ".join(packaged())
    if given is None:
        if weights is None:
            raise UserError(f"a new Darknet detector needs its layers; give --cfg PATH, or one of {shipped}")
        beside = weights.with_suffix(_SUFFIX)
        if beside.is_file():
            return beside
        if beside.name in packaged():
            return ASSETS / beside.name
        raise UserError(
            f"weights {weights} do not tell their layers, and there is no {beside}; give --cfg PATH, or one of "
            f"{shipped}"
        )
    if given.exists():
        return given
    for name in (str(given), f"{given}{_SUFFIX}"):
        if name in packaged():
            return ASSETS / name
    raise UserError(f"cfg {given} does not exist; shipped are {shipped}")


def class_names(cfg: Cfg, path: Path, names: Path | None) -> tuple[str, ...]:
    """The names of a detector's classes.

    Args:
        cfg: its layers.
        path: where they are from: the shipped files are of Pascal VOC's classes.
        names: a file with a name in every line; None: there is none.

    Returns:
        As many names as classes; empty: they are not known.

    Raises:
        UserError: the file cannot be read, or has another number of names.
    """
    count = cfg.region.classes
    if names is None:
        return VOC_NAMES if path.parent == ASSETS and count == len(VOC_NAMES) else ()
    try:
        found = tuple(line.strip() for line in names.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--names {names} cannot be read: {printable(str(error))}") from None
    if len(found) != count:
        raise UserError(f"--names {names} has {len(found)} names, and {path} has {count} classes; one each is needed")
    return found


def find_layers(given: Path | None, names: Path | None, weights: Path | None) -> tuple[Cfg, tuple[str, ...]]:
    """Layers and class names; see `find_cfg` and `class_names`."""
    path = find_cfg(given, weights)
    cfg = load_cfg(path)
    return cfg, class_names(cfg, path, names)
