"""Mend a slim model: it learns to answer as the dense model does, on training images without labels.

The closed form cuts every site by itself and solves only for what reads its channels. Mending starts there and moves
all weights of the layers: first half layer after half layer, then all of them together.
"""

import sys
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from greedyprune.models.answers import answer_errors
from greedyprune.models.deploy import deployed
from greedyprune.models.detector import Detector, Outputs
from greedyprune.pruning.fit import fit
from greedyprune.pruning.layerwise import Batches, mend_blocks, mend_layers
from greedyprune.pruning.prefix import Place, Prefix, advance, asked_as, begin, finish
from greedyprune.pruning.shelf import Shelf, Store

RATE = 3e-4  # of Adam, for all layers together
HIDDEN_WEIGHT = 0.1  # of the decoder's states and the memory against the answers


def mend(
    dense: Detector,
    slim: Detector,
    prefixes: Iterable[Prefix],
    steps: int,
    images: Batches | None = None,
    tell: Callable[[str], None] = lambda text: None,
    room: int = sys.maxsize,
) -> list[str]:
    """Train a slim model in place: its encoder's and decoder's layers, and the blocks of a backbone that is cut.

    A pure function of the two models and the batches. It takes the memory of training on one batch, and what there is
    room for of the tokens of all images at two places of the Transformer and of the dense answers.

    Args:
        dense: the dense model, in eval mode; it is not changed.
        slim: one with the same layers, in eval mode.
        prefixes: batches of images before the dense model's first encoder layer; not made in inference mode.
        steps: of one batch each, for all layers together; before them each half of a layer has half as many.
        images: goes through the same images themselves, where the slim model's backbone is another; None: it is not.
        tell: is told what takes time.
        room: bytes of memory for what is kept of the images; the rest goes to temporary files.

    Returns:
        The names of the parameters that learned.
    """
    if slim.cfgs == dense.cfgs:
        return []  # nothing is cut: there is only rounding to learn from
    takes = [parameter.requires_grad for parameter in slim.parameters()]
    slim.requires_grad_(False)
    learning = [*slim.transformer.encoder.layers.parameters(), *slim.transformer.decoder.layers.parameters()]
    with Store(room) as store:
        theirs = Shelf(store, prefixes)
        if images is None:
            starts = Shelf(store, theirs)
        else:
            tell("mending the backbone")
            mend_blocks(dense, slim, images, steps // 2)
            extractor = deployed(slim)
            with torch.no_grad():
                starts = Shelf(store, (begin(extractor.features(batch)) for batch in images()))
            learning += [p for block in slim.feature_extractor.blocks.values() for p in block.parameters()]
        own = Shelf(store, starts)
        mend_layers(dense, slim, theirs, own, steps // 2, tell)
        own.clear()
        tell(f"mending all layers together, {steps} steps")
        again = starts.forever() if images is None else _from_images(slim, images)
        answers = Shelf(store, _answers(dense, theirs))
        fit(learning, _losses(slim, again, theirs, answers), steps, RATE)
    for parameter, take in zip(slim.parameters(), takes, strict=True):
        parameter.requires_grad_(take)
    learned = {id(parameter) for parameter in learning}
    return [name for name, parameter in slim.named_parameters() if id(parameter) in learned]


def _from_images(model: Detector, images: Batches) -> Iterator[Prefix]:
    while True:
        for batch in images():
            yield begin(model.features(batch))


def _answers(dense: Detector, ends: Iterable[Prefix]) -> Iterator[Outputs]:
    for end in ends:
        with torch.no_grad():
            yield finish(dense, end)


def _losses(slim: Detector, starts: Iterator[Prefix], ends: Shelf[Prefix], answers: Shelf[Outputs]) -> Iterator[Tensor]:
    """How far the slim model's answers are from the dense one's, batch after batch.

    For every decoder layer the errors of the answers (see `answer_errors`), and with a small weight hidden states.

    Args:
        slim: the slim model.
        starts: the batches, over and over, before its first layer.
        ends: the same batches after the dense model's last layer.
        answers: what the dense model answers.
    """
    for start, aim, answer in zip(starts, ends.forever(), answers.forever(), strict=False):
        end = advance(slim, asked_as(advance(slim, start, Place(True, 0)), aim), aim.place)
        yield _loss(finish(slim, end), end, answer, aim)


def _loss(outputs: Outputs, end: Prefix, target: Outputs, aim_end: Prefix) -> Tensor:
    shown = slice(None) if aim_end.mask is None else aim_end.mask.flatten(1)
    loss = HIDDEN_WEIGHT * F.mse_loss(end.tokens[shown], aim_end.tokens[shown])
    for state, wanted in zip(end.hidden, aim_end.hidden, strict=True):
        loss = loss + HIDDEN_WEIGHT * F.mse_loss(state, wanted)
    for error in answer_errors(outputs, target):
        loss = loss + error.mean()
    return loss
