"""The registered families, and which of them a model or file is of."""

from pathlib import Path

from torch import nn

from greedyprune.errors import UserError
from greedyprune.families.base import Asked, Block, Family
from greedyprune.families.darknet import DarknetFamily
from greedyprune.families.detr import DetrFamily

_FAMILIES: list[Family] = [DarknetFamily(), DetrFamily()]


def register(family: Family) -> Family:
    """Make a family known; of those that know a model or file, the one that was registered last counts."""
    _FAMILIES.insert(0, family)
    return family


def family_of(model: nn.Module) -> Family:
    """The family of a model.

    Raises:
        UserError: no registered family knows its class.
    """
    for family in _FAMILIES:
        if family.owns(model):
            return family
    known = ", ".join(family.name for family in _FAMILIES)
    raise UserError(
        f"{type(model).__name__} is of no family that is known here ({known}); describe it with a Family of its own, "
        "see docs/EXTENDING.md"
    )


def kinds() -> tuple[str, ...]:
    """The names of all detectors that are known."""
    return tuple(name for family in reversed(_FAMILIES) for name in family.kinds)


def family_of_file(path: Path) -> Family:
    """The family whose checkpoint a file is."""
    return next(family for family in _FAMILIES if family.reads(path))


__all__ = ["Asked", "Block", "Family", "family_of", "family_of_file", "kinds", "register"]
