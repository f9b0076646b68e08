"""AdamW or SGD with DETR's two learning rates, and learning rate schedules as functions of the step."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.training.config import TrainOptions


def parameter_groups(model: nn.Module, options: TrainOptions) -> list[dict[str, Any]]:
    """Trained parameters by base learning rate and weight decay; every one in exactly one group.

    Parameters of a frozen backbone (`lr_backbone` 0) stop requiring gradients.

    Returns:
        Groups of an optimizer; `base_lr` is the learning rate that the schedule scales.
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        backbone = name.removeprefix("detector.").startswith("backbone.")  # `WithEncoderHead` holds the detector
        if backbone and options.lr_backbone == 0:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            decayed = not options.no_decay_norm or parameter.dim() > 1
            groups.setdefault((backbone, decayed), []).append(parameter)
    result = []
    for (backbone, decayed), parameters in sorted(groups.items(), key=lambda item: item[0]):
        lr = options.lr_backbone if backbone else options.lr
        decay = options.weight_decay if decayed else 0.0
        result.append({"params": parameters, "lr": lr, "base_lr": lr, "weight_decay": decay})
    return result


def make_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum over `parameter_groups`, in its fused form."""
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameter_groups(model, options), lr=options.lr, momentum=options.momentum, fused=True)
    return torch.optim.AdamW(parameter_groups(model, options), lr=options.lr, fused=True)


def lr_factor(step: int, steps_per_epoch: int, options: TrainOptions) -> float:
    """What the base learning rates are multiplied with in a step.

    Args:
        step: optimizer steps done before it.
        steps_per_epoch: optimizer steps of an epoch.
        options: `schedule`, `lr_drop`, `warmup_steps` and the training's length.

    Returns:
        `step`: 1, and 0.1 from epoch `drop_epoch` on; `constant`: 1; `cosine`: from 1 after the warm-up along half a
        cosine towards 0 at the end. All times (step + 1) / warmup_steps during the warm-up.
    """
    warmup = min(1.0, (step + 1) / options.warmup_steps) if options.warmup_steps else 1.0
    if options.schedule == "cosine":
        total = options.total_steps(steps_per_epoch)
        progress = max(0, step - options.warmup_steps) / max(1, total - options.warmup_steps)
        return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    if options.schedule == "step" and step >= options.drop_epoch * steps_per_epoch:
        return warmup * 0.1
    return warmup


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's base learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as `<parameter>/<entry>` -> tensor."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{entry}": value
        for parameter, state in optimizer.state.items()
        for entry, value in state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, on each parameter's device and in its memory format."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, entry = key.rsplit("/", 1)
        parameter = parameters[name]
        # The fused kernel walks parameter and moments alike, so that their strides must agree.
        own = torch.empty_like(parameter) if value.shape == parameter.shape else value.to(parameter.device)
        optimizer.state[parameter][entry] = own.detach().copy_(value)
