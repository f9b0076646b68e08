"""GreedyPrune: prune a trained DETR-family detector to a smaller one, and never lose the search."""

from greedyprune.errors import UserError
from greedyprune.version import __version__

TYPE_CHECKING = False  # typing's own would have to be imported
if TYPE_CHECKING:
    from greedyprune.models import build_model, load_checkpoint, load_model
    from greedyprune.models.deploy import deployed

__all__ = ["UserError", "__version__", "build_model", "deployed", "load_checkpoint", "load_model"]

# Imported when they are asked for: PyTorch takes seconds, and a tool is to answer Ctrl-C from its first moment.
_HOMES = {
    "build_model": "greedyprune.models",
    "deployed": "greedyprune.models.deploy",
    "load_checkpoint": "greedyprune.models",
    "load_model": "greedyprune.models",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
