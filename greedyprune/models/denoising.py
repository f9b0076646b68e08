"""Query denoising of DN-DETR: noised ground truth as extra decoder queries (DN-DETR, sections 4.2 to 4.4)."""

from dataclasses import dataclass

import torch
from torch import nn

from greedyprune.boxes import inverse_sigmoid
from greedyprune.models.features import DenoisingQueries
from greedyprune.models.matcher import Target


@dataclass(frozen=True)
class Denoising:
    """How much noise, and how often.

    Attributes:
        scalar: denoising groups; each holds every target once.
        label_noise_scale: probability that a label is replaced by a random one.
        box_noise_scale: centre moves by up to this times half the size, the size changes by up to this times itself.
    """

    scalar: int = 5
    label_noise_scale: float = 0.2
    box_noise_scale: float = 0.4


def denoising_queries(
    targets: list[Target], settings: Denoising, label_enc: nn.Embedding, num_classes: int, num_queries: int
) -> DenoisingQueries | None:
    """Noised copies of the targets, as queries for the decoder.

    Args:
        targets: B dicts with `labels` [n] and `boxes` [n, 4] (cxcywh in 0..1).
        settings: amount of noise.
        label_enc: `[num_classes + 1, dim - 1]`; the last channel of a query says that it is a denoising one.
        num_classes: labels are in 0..num_classes - 1.
        num_queries: matching queries that follow the denoising ones.

    Returns:
        None when there is no target in the batch or no group.
    """
    counts = [len(target["labels"]) for target in targets]
    if not sum(counts) or not settings.scalar:
        return None
    device, groups, widest = label_enc.weight.device, settings.scalar, max(counts)
    labels = torch.cat([target["labels"] for target in targets]).repeat(groups)  # [K]
    boxes = torch.cat([target["boxes"] for target in targets]).float().repeat(groups, 1)  # [K, 4]
    image = torch.cat([torch.full((count,), i, device=device) for i, count in enumerate(counts)]).repeat(groups)
    within = torch.cat([torch.arange(count, device=device) for count in counts])
    query = torch.cat([within + widest * group for group in range(groups)])  # [K]

    noised_labels, noised_boxes = labels, boxes
    if settings.label_noise_scale > 0:
        replaced = torch.rand(labels.shape, device=device) < settings.label_noise_scale
        noised_labels = torch.where(replaced, torch.randint_like(labels, num_classes), labels)
    if settings.box_noise_scale > 0:
        reach = torch.cat((boxes[:, 2:] / 2, boxes[:, 2:]), dim=1)
        noise = torch.rand_like(boxes) * 2 - 1
        noised_boxes = (boxes + noise * reach * settings.box_noise_scale).clamp(0, 1)

    embedded = label_enc(noised_labels)
    indicator = embedded.new_ones(len(labels), 1)
    padded = groups * widest
    content = embedded.new_zeros(len(targets), padded, embedded.shape[1] + 1)
    content[image, query] = torch.cat((embedded, indicator), dim=1)
    # Through inverse_sigmoid and back, as published: it keeps sizes above 1e-3.
    reference = boxes.new_full((len(targets), padded, 4), 0.5)
    reference[image, query] = inverse_sigmoid(noised_boxes).sigmoid()

    # Matching queries see no denoising query, and a denoising query sees its own group and the matching queries.
    group = torch.arange(padded + num_queries, device=device) // widest
    group[padded:] = groups
    self_shown = (group[:, None] == group[None, :]) | ((group[None, :] == groups) & (group[:, None] < groups))
    return DenoisingQueries(content, reference, self_shown, image, query, labels, boxes, groups)
