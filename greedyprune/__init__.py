"""GreedyPrune: prune a trained object detector to a smaller one, and never lose the search."""

from greedyprune.errors import UserError
from greedyprune.version import __version__

TYPE_CHECKING = False  # typing's own would have to be imported
if TYPE_CHECKING:
    from greedyprune.api import Result, load, prune, save, transplant
    from greedyprune.evaluation.evaluate import evaluate
    from greedyprune.models import build_model, load_checkpoint, load_model
    from greedyprune.models.deploy import deployed
    from greedyprune.search.options import SearchOptions

__all__ = [
    "Result",
    "SearchOptions",
    "UserError",
    "__version__",
    "build_model",
    "deployed",
    "evaluate",
    "load",
    "load_checkpoint",
    "load_model",
    "prune",
    "save",
    "transplant",
]

# Imported when they are asked for: PyTorch takes seconds, and a tool is to answer Ctrl-C from its first moment.
_HOMES = {
    "Result": "greedyprune.api",
    "SearchOptions": "greedyprune.search.options",
    "build_model": "greedyprune.models",
    "deployed": "greedyprune.models.deploy",
    "evaluate": "greedyprune.evaluation.evaluate",
    "load": "greedyprune.api",
    "load_checkpoint": "greedyprune.models",
    "load_model": "greedyprune.models",
    "prune": "greedyprune.api",
    "save": "greedyprune.api",
    "transplant": "greedyprune.api",
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
