"""Mend a slim model: it learns to answer as the dense model does, on training images without labels.

The closed form cuts every site by itself and solves only for what reads its channels. Mending starts there and moves
all weights of the layers: first half layer after half layer, then all of them together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle

import torch
from torch import Tensor
from torch.nn import functional as F

from greedyprune.models.detector import Detector, Outputs
from greedyprune.pruning.fit import fit
from greedyprune.pruning.layerwise import Batches, mend_blocks, mend_layers
from greedyprune.pruning.prefix import Place, Prefix, advance, asked_as, begin, finish
from greedyprune.pruning.sensitivity import BOX_WEIGHT

RATE = 3e-4  # of Adam, for all layers together
HIDDEN_WEIGHT = 0.1  # of the decoder's states and the memory against the answers


def mend(
    dense: Detector,
    slim: Detector,
    prefixes: Iterable[Prefix],
    steps: int,
    images: Batches | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Train a slim model in place: its encoder's and decoder's layers, and the blocks of a backbone that is cut.

    A pure function of the two models and the batches. Memory is that of the tokens of all images at two places of the
    Transformer, of the dense answers, and of training on one batch.

    Args:
        dense: the dense model, in eval mode; it is not changed.
        slim: one with the same layers, in eval mode.
        prefixes: batches of images before the dense model's first encoder layer; not made in inference mode.
        steps: of one batch each, for all layers together; before them each half of a layer has half as many.
        images: goes through the same images themselves, where the slim model's backbone is another; None: it is not.
        tell: is told what takes time.

    Returns:
        The names of the parameters that learned.
    """
    if slim.cfgs == dense.cfgs:
        return []  # nothing is cut: there is only rounding to learn from
    takes = [parameter.requires_grad for parameter in slim.parameters()]
    slim.requires_grad_(False)
    theirs = own = list(prefixes)
    learning = [*slim.transformer.encoder.layers.parameters(), *slim.transformer.decoder.layers.parameters()]
    if images is not None:
        tell("mending the backbone")
        mend_blocks(dense, slim, images, steps // 2)
        with torch.no_grad():
            own = [begin(slim.features(batch)) for batch in images()]
        learning += [parameter for block in slim.feature_extractor.blocks.values() for parameter in block.parameters()]
    ends = mend_layers(dense, slim, theirs, own, steps // 2, tell)
    tell(f"mending all layers together, {steps} steps")
    starts = cycle(own) if images is None else _from_images(slim, images)
    fit(learning, _losses(dense, slim, ends, starts), steps, RATE)
    for parameter, take in zip(slim.parameters(), takes, strict=True):
        parameter.requires_grad_(take)
    learned = {id(parameter) for parameter in learning}
    return [name for name, parameter in slim.named_parameters() if id(parameter) in learned]


def _from_images(model: Detector, images: Batches) -> Iterator[Prefix]:
    while True:
        for batch in images():
            yield begin(model.features(batch))


def _losses(dense: Detector, slim: Detector, ends: Sequence[Prefix], starts: Iterator[Prefix]) -> Iterator[Tensor]:
    """How far the slim model's answers are from the dense one's, batch after batch.

    For every decoder layer logits (binary cross entropy with the dense model's chances), boxes (L1, as much as the
    dense query is confident) and, with a small weight, hidden states.

    Args:
        dense: the dense model.
        slim: the slim one.
        ends: the batches after the dense model's last layer.
        starts: the same batches, over and over, before the slim model's first one.
    """
    with torch.no_grad():
        answers = [finish(dense, end) for end in ends]
    for start, (aim, answer) in zip(starts, cycle(zip(ends, answers, strict=True)), strict=False):
        end = advance(slim, asked_as(advance(slim, start, Place(True, 0)), aim), aim.place)
        yield _loss(finish(slim, end), end, answer, aim)


def _loss(outputs: Outputs, end: Prefix, target: Outputs, aim_end: Prefix) -> Tensor:
    shown = slice(None) if aim_end.mask is None else aim_end.mask.flatten(1)
    loss = HIDDEN_WEIGHT * F.mse_loss(end.tokens[shown], aim_end.tokens[shown])
    for state, wanted in zip(end.hidden, aim_end.hidden, strict=True):
        loss = loss + HIDDEN_WEIGHT * F.mse_loss(state, wanted)
    stages = zip((outputs, *outputs["aux_outputs"]), (target, *target["aux_outputs"]), strict=True)
    for own, aim in stages:
        chance = aim["pred_logits"].sigmoid()
        logits = F.binary_cross_entropy_with_logits(own["pred_logits"], chance, reduction="none").sum(-1)
        boxes = (own["pred_boxes"] - aim["pred_boxes"]).abs().sum(-1)
        loss = loss + (logits + BOX_WEIGHT * chance.amax(-1) * boxes).mean()
    return loss
