"""How detectors are trained: this project's DETRs their own way, every other by its family's loss."""

from torch import nn

from greedyprune.errors import UserError
from greedyprune.families import family_of
from greedyprune.models import Detector
from greedyprune.training.config import TrainOptions
from greedyprune.training.distributed import World
from greedyprune.training.recipes.base import Recipe
from greedyprune.training.recipes.detr import DetrRecipe
from greedyprune.training.recipes.plain import PlainRecipe


def recipe_class(model: nn.Module) -> type[Recipe]:
    """The kind of training that a detector has."""
    return DetrRecipe if isinstance(model, Detector) else PlainRecipe


def make_recipe(model: nn.Module, options: TrainOptions, world: World, teacher: nn.Module | None = None) -> Recipe:
    """The training of a detector.

    Args:
        model: the detector, on its device.
        options: of the training.
        world: the processes.
        teacher: a detector whose answers are learned, too; None: labels alone are.

    Raises:
        UserError: the teacher is of another family or cannot teach it, or an option says nothing of this detector.
    """
    if teacher is not None and family_of(teacher) is not family_of(model):
        raise UserError(
            f"the teacher is a {family_of(teacher).name}, and the model a {family_of(model).name}; give the dense "
            "detector that it was cut from"
        )
    if not isinstance(model, Detector):
        return PlainRecipe(model, options, world, teacher)
    assert teacher is None or isinstance(teacher, Detector)
    return DetrRecipe(model, options, world, teacher)


__all__ = ["Recipe", "make_recipe", "recipe_class"]
