"""Mend a slim model: it learns to answer as the dense model does, on training images without labels.

The closed form cuts every site by itself and solves only for what reads its channels. Mending starts there and moves
all weights of the layers: first half layer after half layer, then all of them together.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional as F

from greedyprune.models.answers import answer_errors
from greedyprune.models.deploy import deployed
from greedyprune.models.detector import Detector, Outputs
from greedyprune.pruning.fit import fit
from greedyprune.pruning.layerwise import Batch, mend_blocks, mend_layers
from greedyprune.pruning.prefix import Place, Prefix, advance, asked_as, begin, finish
from greedyprune.pruning.shelf import Shelf, Store

RATE = 3e-4  # of Adam, for all layers together
# A batch before the slim model's first layer and after the dense model's last one, and what the dense model answers.
Lesson = tuple[Prefix, Prefix, Outputs]
HIDDEN_WEIGHT = 0.1  # of the decoder's states and the memory against the answers


def mend(
    dense: Detector,
    slim: Detector,
    prefixes: Iterable[Prefix],
    steps: int,
    images: Iterable[Batch] | None = None,
    keep: int = 0,
    tell: Callable[[str], None] = lambda text: None,
    room: int = sys.maxsize,
) -> list[str]:
    """Train a slim model in place: its encoder's and decoder's layers, and the blocks of a backbone that is cut.

    A pure function of the two models and the batches. It takes the memory of training on one batch, and what there is
    room for of the tokens of all images at two places of the Transformer and of the dense answers.

    Args:
        dense: the dense model, in eval mode; it is not changed.
        slim: one with the same layers, in eval mode.
        prefixes: batches of images before the dense model's first encoder layer, not made in inference mode; what a
            slim model with the dense backbone learns from.
        steps: of one batch each, for all layers together; before them each half of a layer has half as many.
        images: endless batches of images themselves, the same whenever they are iterated over; what a slim model
            with a cut backbone learns from instead. None: it has the dense one.
        keep: how many of those the layers learn from one after another, which are kept as prefixes are.
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
        if images is None:
            theirs = Shelf(store, prefixes)
            starts = Shelf(store, theirs)
            own = Shelf(store, starts)
        else:
            tell("mending the backbone")
            mend_blocks(dense, slim, images, steps // 2)
            learning += [p for block in slim.feature_extractor.blocks.values() for p in block.parameters()]
            theirs, own = (Shelf(store, islice(_begun(model, images), keep)) for model in (dense, slim))
        mend_layers(dense, slim, theirs, own, steps // 2, tell)
        own.clear()
        tell(f"mending all layers together, {steps} steps")
        if images is None:
            answers = Shelf(store, _answers(dense, theirs))
            lessons: Iterator[Lesson] = zip(starts.forever(), theirs.forever(), answers.forever(), strict=True)
        else:
            theirs.clear()
            lessons = _taught(dense, slim, images)
        fit(learning, (_loss(slim, *lesson) for lesson in lessons), steps, RATE)
    for parameter, take in zip(slim.parameters(), takes, strict=True):
        parameter.requires_grad_(take)
    learned = {id(parameter) for parameter in learning}
    return [name for name, parameter in slim.named_parameters() if id(parameter) in learned]


def _begun(model: Detector, images: Iterable[Batch]) -> Iterator[Prefix]:
    extractor = deployed(model)
    for batch in images:
        with torch.no_grad():
            yield begin(extractor.features(batch))


def _answers(dense: Detector, ends: Iterable[Prefix]) -> Iterator[Outputs]:
    for end in ends:
        with torch.no_grad():
            yield finish(dense, end)


def _taught(dense: Detector, slim: Detector, images: Iterable[Batch]) -> Iterator[Lesson]:
    extractor, last = deployed(dense), Place(True, len(dense.transformer.decoder.layers))
    for batch in images:
        with torch.no_grad():
            end = advance(dense, begin(extractor.features(batch)), last)
            answer = finish(dense, end)
        yield begin(slim.features(batch)), end, answer


def _loss(slim: Detector, start: Prefix, aim: Prefix, answer: Outputs) -> Tensor:
    """How far the slim model's answers to a batch are from the dense one's.

    For every decoder layer the errors of the answers (see `answer_errors`), and with a small weight hidden states.

    Args:
        slim: the slim model.
        start: the batch before its first layer.
        aim: the batch after the dense model's last layer.
        answer: what the dense model answers.
    """
    end = advance(slim, asked_as(advance(slim, start, Place(True, 0)), aim), aim.place)
    shown = slice(None) if aim.mask is None else aim.mask.flatten(1)
    loss = HIDDEN_WEIGHT * F.mse_loss(end.tokens[shown], aim.tokens[shown])
    for state, wanted in zip(end.hidden, aim.hidden, strict=True):
        loss = loss + HIDDEN_WEIGHT * F.mse_loss(state, wanted)
    for error in answer_errors(finish(slim, end), answer):
        loss = loss + error.mean()
    return loss
