"""Mending of a slim model part by part: each gives again what the dense one's part gives."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from greedyprune.families.base import Block, Family
from greedyprune.pruning.fit import fit
from greedyprune.pruning.marked import Call
from greedyprune.pruning.replay import INPUTS, Replay, Tape
from greedyprune.pruning.shelf import Shelf
from greedyprune.pruning.tree import tensors_in
from greedyprune.pruning.watcher import UNWATCHED, Watcher
from greedyprune.sites.change import Pairing

RATE = 2e-3  # of Adam, for a chained block
SINGLE_RATE = 1e-3  # for a block that learns from the dense model's inputs
NOISE = 1e-10  # of the dense outputs' power: what rounding alone leaves, from which there is nothing to learn

Batch = Sequence[Tensor]


class Aim:
    """The distance of what a module of a slim model gives from what the dense one's gives.

    Args:
        family: of the models.
        model: the slim one.
        pairing: which of the dense queries it still has.
    """

    def __init__(self, family: Family, model: nn.Module, pairing: Pairing) -> None:
        self.family, self.model, self.pairing = family, model, pairing

    def pair(self, module: str, inputs: Any, output: Any, dense: Any) -> tuple[Tensor, Tensor]:
        """What a module gave in both models `[n, ...]`, without padding and without queries that are gone."""
        own, its = tensors_in(output)[0], tensors_in(dense)[0]
        queries = self.pairing.queries
        if queries is not None and own.shape != its.shape:
            its = its.index_select(1, queries.to(its.device))
        shown = self.family.shown(self.model, inputs, module, own)
        if shown is None:
            return own.flatten(0, 1), its.flatten(0, 1)
        if own.dim() == 4:
            own, its = own.movedim(1, -1), its.movedim(1, -1)
        return own[shown], its[shown]

    def error(self, module: str, inputs: Any, output: Any, dense: Any) -> Tensor:
        """Mean squared error."""
        return F.mse_loss(*self.pair(module, inputs, output, dense))


def parameters_of(model: nn.Module, modules: Iterable[str]) -> list[nn.Parameter]:
    """The parameters of modules, each once."""
    found = {id(p): p for name in modules for p in model.get_submodule(name).parameters()}
    return list(found.values())


def mend_chain(
    aim: Aim,
    blocks: Sequence[Block],
    dense: Replay,
    slim: Replay,
    theirs: Shelf[Tape],
    own: Shelf[Tape],
    steps: int,
    watcher: Watcher = UNWATCHED,
) -> None:
    """Train block after block, in place: of what the mended ones before it give, it makes what the dense one gives.

    Args:
        aim: what is compared, and how.
        blocks: chained ones, front to back, that both models have.
        dense: passes of the dense model.
        slim: passes of the slim one, none of whose parameters takes gradients.
        theirs: batches of images before the first block in the dense model; afterwards they are after the last one.
        own: the same in the slim model.
        steps: of one batch each, for every block.
        watcher: is told which one learns, and how far it is.
    """
    for block in blocks:
        end: Call = (block.ends, 0)
        for replay in (dense, slim):  # what a block is held to is kept, even where nothing after it reads it
            replay.known.demanded |= {(end, 0)}
        theirs.replace(lambda tape, end=end: dense.forwarded(tape, end, after=True))
        with torch.no_grad():
            first, wanted = slim.output(own[0], end), theirs[0]
            error = aim.error(block.ends, own[0].values[INPUTS], first, wanted.values[end])
            power = tensors_in(wanted.values[end])[0].square().mean()
        if error > NOISE * power:
            watcher.doing(f"mending {block.label}")
            losses = _losses(aim, slim, own, theirs, end)
            fit(parameters_of(slim.model, block.learns), losses, steps, RATE, watcher)
        own.replace(lambda tape, end=end: slim.forwarded(tape, end, after=True))


def _losses(aim: Aim, slim: Replay, own: Shelf[Tape], theirs: Shelf[Tape], end: Call) -> Iterator[Tensor]:
    for tape, wanted in zip(own.forever(), theirs.forever(), strict=True):
        yield aim.error(end[0], tape.values[INPUTS], slim.output(tape, end), wanted.values[end])


def mend_singles(
    aim: Aim,
    blocks: Sequence[Block],
    dense: nn.Module,
    slim: nn.Module,
    images: Iterable[Batch],
    steps: int,
    watcher: Watcher = UNWATCHED,
) -> None:
    """Train blocks that are one module each, in place: each makes the dense one's output of the dense one's input.

    All of them learn at once, so that no feature map has to be kept.

    Args:
        aim: what is compared, and how.
        blocks: those that are not chained; the ones that are cut learn.
        dense: the dense model.
        slim: the slim one, none of whose parameters takes gradients.
        images: endless batches of images.
        steps: of one batch each.
        watcher: is told how far it is.
    """
    family = aim.family
    cut = [b for b in blocks if _shapes(dense.get_submodule(b.ends)) != _shapes(slim.get_submodule(b.ends))]
    if not cut:
        return
    fast = family.folded(dense)
    seen: dict[str, tuple[tuple[Any, ...], dict[str, Any], Any]] = {}

    def losses() -> Iterator[Tensor]:
        for batch in images:
            inputs = family.inputs(fast, batch)
            with torch.no_grad():
                family.answer(fast, inputs, last_only=True)
            errors = []
            for block in cut:
                args, named, output = seen[block.ends]
                own = slim.get_submodule(block.ends)(*args, **named)
                errors.append(F.mse_loss(tensors_in(own)[0], tensors_in(output)[0]))
            yield torch.stack(errors).sum()

    with ExitStack() as stack:
        for block in cut:

            def watch(module: nn.Module, args: Any, named: Any, output: Any, name: str = block.ends) -> None:
                seen[name] = args, named, output

            handle = fast.get_submodule(block.ends).register_forward_hook(watch, with_kwargs=True)
            stack.callback(handle.remove)
        learning = parameters_of(slim, [module for block in cut for module in block.learns])
        fit(learning, losses(), steps, SINGLE_RATE, watcher)


def _shapes(module: nn.Module) -> list[torch.Size]:
    return [tensor.shape for tensor in module.state_dict().values()]
