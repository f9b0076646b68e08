"""How any detector is trained whose family has a loss."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from greedyprune.answer import Answer
from greedyprune.data.seeded import mixed_seed
from greedyprune.errors import UserError
from greedyprune.evaluation.predict import autocast
from greedyprune.families import family_of
from greedyprune.families.base import Family
from greedyprune.pruning.answers import answer_errors
from greedyprune.training.config import TrainOptions
from greedyprune.training.distributed import World
from greedyprune.training.recipes.base import Lost, Moment, Recipe
from greedyprune.training.teacher import check_classes

SCALE_STEPS = 10  # of one image size, with several scales (Redmon and Farhadi 2017, section 2, "Multi-Scale Training")


class PlainRecipe(Recipe):
    """The training of a detector by its family's loss.

    Args:
        model: the detector, on its device.
        options: of the training.
        world: the processes.
        teacher: a detector of the same family whose answers are learned, too; None: labels alone are.

    Raises:
        UserError: the family has no loss, the teacher has other classes, or an option is for other detectors.
    """

    foreign = ("lr_backbone", "no_dn", "scalar", "label_noise_scale", "box_noise_scale", "encoder_head")

    def __init__(self, model: nn.Module, options: TrainOptions, world: World, teacher: nn.Module | None = None) -> None:
        super().__init__(model, options, world)
        self.family = family_of(model)
        loss = self.family.loss(model)
        if loss is None:
            raise UserError(f"a {self.family.name} has no loss to train it with; its family must give one")
        self._loss = loss
        self.scales = tuple(self.family.scales(model)) if options.multi_scale else ()
        if options.multi_scale and not self.scales:
            raise UserError(f"--multi_scale: a {self.family.name} has no other sizes of images; leave it out")
        self.teacher = None if teacher is None else teacher.to(world.device).eval().requires_grad_(False)
        if teacher is not None:
            check_classes(self.family.classes(teacher), self.family.classes(model))

    @staticmethod
    def gather(images: list[Tensor], channels_last: bool) -> list[Tensor]:
        return images  # the family makes a batch of them, on the device

    def network(self, compiled: bool) -> nn.Module:
        if compiled:
            self.model.compile()
        return self.world.wrap(_Answering(self.family, self.model), unused=False)

    def loss(self, network: nn.Module, batch: list[Tensor], known: list[dict[str, Tensor]], moment: Moment) -> Lost:
        options, device = self.options, self.world.device
        inputs = self._scaled(self.family.inputs(self.model, batch), moment.step)
        with autocast(device, options.amp):
            answer: Answer = network(inputs)
            target = None if self.teacher is None else self._taught(inputs)
        self.family.saw(self.model, len(batch) * self.world.size)
        loss = self._loss(answer, known)
        # Gradients are averaged over the processes.
        loss = loss * len(batch) * self.world.size if options.loss_sum else loss / moment.parts
        if target is not None:
            errors = torch.stack(answer_errors(answer, target))
            loss = loss + options.distill / moment.boxes * errors.sum()
        return Lost(loss, {})

    def _scaled(self, inputs: Any, step: int) -> Any:
        """The images at the size of the step's time; boxes are shares of the image, and stay."""
        if not self.scales:
            return inputs
        size = self.scales[mixed_seed(self.options.seed, step // SCALE_STEPS) % len(self.scales)]
        return F.interpolate(inputs, size, mode="bilinear", antialias=True)

    @torch.no_grad()
    def _taught(self, inputs: Any) -> Answer:
        assert self.teacher is not None
        return self.family.answer(self.teacher, inputs)


class _Answering(nn.Module):
    """A detector whose call gives its answer.

    Args:
        family: of the detector.
        detector: the detector.
    """

    def __init__(self, family: Family, detector: nn.Module) -> None:
        super().__init__()
        self._family, self.detector = family, detector

    def forward(self, inputs: Any) -> Answer:
        return self._family.answer(self.detector, inputs)
