"""The detectors that are shipped with the package, and how they are named."""

from pathlib import Path

from greedyprune.text import file_path

ASSETS = Path(__file__).parent / "assets"
DEMO_MODEL = ASSETS / "shapes_dn_detr.safetensors"
_SUFFIX = ".safetensors"


def embedded_names() -> list[str]:
    """The names that stand for a shipped detector where a checkpoint's path is asked for."""
    return sorted(path.stem for path in ASSETS.glob(f"*{_SUFFIX}"))


def checkpoint_path(text: str) -> Path:
    """A checkpoint's path, or the name of a shipped detector, which a file or folder of that name goes before.

    Raises:
        ArgumentTypeError: no file can have such a name.
    """
    path = file_path(text)
    return ASSETS / f"{text}{_SUFFIX}" if text in embedded_names() and not path.exists() else path


def named(path: Path) -> str:
    """What `checkpoint_path` takes for a checkpoint: the name of a shipped detector, or the path."""
    return path.stem if path.parent == ASSETS and path.stem in embedded_names() else str(path)
