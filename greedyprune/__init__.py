"""GreedyPrune: prune a trained DETR-family detector to a smaller one, and never lose the search."""

from greedyprune.errors import UserError
from greedyprune.models import build_model, load_checkpoint, load_model
from greedyprune.models.deploy import deployed
from greedyprune.version import __version__

__all__ = ["UserError", "__version__", "build_model", "deployed", "load_checkpoint", "load_model"]
