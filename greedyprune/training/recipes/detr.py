"""How this project's DETRs are trained: with query denoising, a head over the encoder, and a teacher."""

import contextlib
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from greedyprune.evaluation.predict import autocast
from greedyprune.models import Criterion, Detector, ImageBatch, pad_images
from greedyprune.models.backbone import Backbone
from greedyprune.pruning.answers import answer_errors
from greedyprune.training.config import TrainOptions
from greedyprune.training.distributed import World
from greedyprune.training.encoder_head import WithEncoderHead
from greedyprune.training.recipes.base import Lost, Moment, Recipe
from greedyprune.training.teacher import Teacher


class DetrRecipe(Recipe):
    """A DETR's training.

    Args:
        model: the detector, on its device.
        options: of the training.
        world: the processes.
        teacher: a detector whose answers are learned, too; None: labels alone are.

    Raises:
        UserError: the teacher has other queries, or an option is for other detectors.
    """

    logged: tuple[str, ...] = ("loss_ce", "loss_bbox", "loss_giou", "tgt_loss_ce", "tgt_loss_bbox", "tgt_loss_giou")
    foreign = ("multi_scale", "loss_sum")

    def __init__(self, model: Detector, options: TrainOptions, world: World, teacher: Detector | None = None) -> None:
        super().__init__(model, options, world)
        self.detector = model
        self.criterion = Criterion(model.options.num_classes)
        self.teacher = Teacher(teacher.to(world.device), model) if teacher else None
        if options.encoder_head:
            self.module = WithEncoderHead(model).to(world.device)
        if options.no_dn:
            self.logged = tuple(name for name in self.logged if not name.startswith("tgt"))

    @staticmethod
    def gather(images: list[Tensor], channels_last: bool) -> ImageBatch:
        batch = pad_images(images)
        if channels_last:
            batch = batch._replace(tensors=batch.tensors.contiguous(memory_format=torch.channels_last))
        return batch

    def network(self, compiled: bool) -> nn.Module:
        model = self.detector
        if compiled:
            cast(Backbone, model.backbone[0]).body.compile()
            for layer in model.transformer.encoder.layers:
                layer.compile()
            for layer in model.transformer.decoder.layers:
                layer.compile(dynamic=True)  # the number of denoising queries changes from batch to batch
        return self.world.wrap(self.module, unused=model.has_idle_weights)

    def loss(self, network: nn.Module, batch: ImageBatch, known: list[dict[str, Tensor]], moment: Moment) -> Lost:
        options, device = self.options, self.world.device
        images = batch.to(device)
        with autocast(device, options.amp), _attention_kernel(device):
            noised = None if options.no_dn else known
            if options.encoder_head:
                answer, head_loss = network(images, noised, options.denoising, known)
            else:
                answer, head_loss = network(images, noised, options.denoising), None
            target = self.teacher.answer(images) if self.teacher else None
        losses = self.criterion(answer, known, moment.boxes)
        loss = self.criterion.total(losses)
        if head_loss is not None:
            loss = loss + options.encoder_head / moment.parts * head_loss  # a mean over the part's tokens
        if target is not None:
            errors = torch.stack(answer_errors(answer, target))
            loss = loss + options.distill / moment.boxes * errors.sum()  # a sum over queries, as the criterion's
        return Lost(loss, losses)

    @property
    def normed(self) -> nn.Module:
        return self.detector.backbone

    def helpers(self) -> dict[str, dict[str, Tensor]]:
        if not isinstance(self.module, WithEncoderHead):
            return {}
        return {"encoder_head": cast("dict[str, Tensor]", dict(self.module.head.named_parameters()))}

    def restore(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        if isinstance(self.module, WithEncoderHead):
            self.module.head.load_state_dict(tensors["encoder_head"])


@contextlib.contextmanager
def _attention_kernel(device: torch.device) -> Iterator[None]:
    """On CPUs the flash kernel's backward pass is slow: with the plain one a demo step takes three quarters."""
    if device.type == "cpu":
        with sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        yield
