"""One door to every detector: a name and its options."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from greedyprune.cfgs import Cfgs, parse_cfgs
from greedyprune.errors import UserError
from greedyprune.models.dn_detr import DNDETR
from greedyprune.models.options import DNDETROptions, ModelInfo


@dataclass(frozen=True)
class ModelType:
    """A detector's class, and the class of its options."""

    model: type[DNDETR]
    options: type[DNDETROptions]


MODELS = {"dn_detr": ModelType(DNDETR, DNDETROptions)}


def build_model(
    name: str, cfgs: str | Sequence[Any] | Cfgs | None = None, *, info: ModelInfo | None = None, **options: Any
) -> DNDETR:
    """Build a detector with random weights.

    Args:
        name: `dn_detr`.
        cfgs: the width of every site, as text, nested lists or Cfgs; None: dense.
        info: class names, category ids and image size to keep with the model.
        options: see `DNDETROptions`.

    Raises:
        UserError: an unknown name or option, or widths that do not fit.
    """
    if name not in MODELS:
        raise UserError(f"model {name!r} is unknown; choose one of {', '.join(MODELS)}")
    kind = MODELS[name]
    return kind.model(kind.options.from_dict(options), None if cfgs is None else parse_cfgs(cfgs), info)


def model_name(model: DNDETR) -> str:
    """The name under which a detector was built."""
    return next(name for name, kind in MODELS.items() if type(model) is kind.model)
