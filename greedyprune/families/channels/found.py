"""From followed channels to sites."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import nn

from greedyprune.families.channels.modules import rules_of
from greedyprune.families.channels.narrow import fitting
from greedyprune.families.channels.operators import OPERATORS
from greedyprune.families.channels.tracer import STRANGER, Part, Tracer
from greedyprune.sites import HiddenSite, Reader, Setting, Slice


@dataclass(frozen=True)
class Found:
    """The sites of a model's convolutions.

    Attributes:
        sites: front to back.
        unpruned: the convolutions of whose channels some stay, and why.
    """

    sites: tuple[HiddenSite, ...]
    unpruned: dict[str, str]


def convolution_sites(
    model: nn.Module, *forwards: Callable[[], Any], part: str, step: int = 16, weighted: bool = False
) -> Found:
    """The sites of the convolutions of a model, by following their channels through forward passes.

    A site is a set of channels with the same writers and the same readers: those of one convolution as a rule, of
    several that are summed up, or a part of them, where something else reads only these.

    Args:
        model: in any mode.
        forwards: run it, on inputs of different sizes where what it does depends on them.
        part: see `Site.part`.
        step: by how much a search changes a width: the next multiple of what stays together.
        weighted: see `HiddenSite.weighted`.
    """
    tracer = Tracer(model, rules_of(model), OPERATORS)
    with _evaluating(model):
        for forward in forwards:
            tracer.run(forward)
    roots = _roots(tracer)
    why = _reasons(tracer, roots)
    parts = list(tracer.parts.values())
    sites: list[HiddenSite] = []
    unpruned: dict[str, str] = {}
    unread: list[str] = []
    writers: dict[str, list[str]] = {}
    groups = list(_groups(parts, roots, set(why)))
    names = Counter(group.writers[0] for group in groups if group.leaves)
    numbered: Counter[str] = Counter()
    for group in groups:
        if not group.leaves:
            for name in group.writers:
                if group.pinned:
                    unpruned.setdefault(name, why[group.root])
            unread += group.writers
            continue
        name = group.writers[0]
        numbered[name] += 1
        own = name if names[name] == 1 else f"{name}:{numbered[name]}"
        writers[own] = group.writers
        sites.append(_site(tracer, group, own, part, step, weighted))
    with _evaluating(model):
        fit, refused = fitting(model, sites, forwards[0])
    unpruned |= {writer: refused[name] for name, own in writers.items() if name in refused for writer in own}
    return Found(tuple(fit), {**dict.fromkeys(unread, "is read by nothing"), **unpruned})


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode: no statistics of an image go into a norm."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, before in training.items():
            module.training = before


@dataclass(frozen=True)
class _Group:
    """Channels with the same writers and the same readers.

    Attributes:
        places: the parts that they lie in, in the order of the pass, and where `[units, n]` every unit is there.
        root: the component of the first one.
        pinned: they stay.
    """

    places: list[tuple[Part, np.ndarray]]
    root: int
    pinned: bool

    @property
    def writers(self) -> list[str]:
        """The convolutions that make them."""
        return list(dict.fromkeys(part.module for part, _ in self.places if part.writes))

    @property
    def leaves(self) -> bool:
        """They can leave: something reads them, and nothing that is not followed does."""
        return bool(self.writers) and not self.pinned and any(part.role == "output" for part, _ in self.places)


def _roots(tracer: Tracer) -> np.ndarray:
    """The component of every number."""
    pairs = torch.cat([torch.empty(2, 0, dtype=torch.int64), *tracer.ties], dim=1).numpy()
    matrix = coo_matrix((np.ones(pairs.shape[1], dtype=bool), (pairs[0], pairs[1])), (tracer.count, tracer.count))
    roots: np.ndarray = connected_components(matrix, directed=False)[1]
    return roots


def _reasons(tracer: Tracer, roots: np.ndarray) -> dict[int, str]:
    """Why components stay; the first reason counts."""
    why: dict[int, str] = {}
    for numbers, reason in tracer.pinned:
        why = {**dict.fromkeys(np.unique(roots[numbers.numpy()]).tolist(), reason), **why}
    return {**why, int(roots[STRANGER]): "meets something that no convolution writes"}


def _groups(parts: Sequence[Part], roots: np.ndarray, pinned: set[int]) -> Iterator[_Group]:
    """The components that lie in the same parts, as often in each, in the order in which the pass meets the first."""
    numbers = np.concatenate([np.empty(0, dtype=np.int64), *(part.numbers.numpy() for part in parts)])
    part = np.repeat(np.arange(len(parts)), [len(each.numbers) for each in parts])
    place = np.concatenate([np.empty(0, dtype=np.int64), *(np.arange(len(each.numbers)) for each in parts)])
    followed = numbers > STRANGER
    root, part, place = roots[numbers[followed]], part[followed], place[followed]
    _, first, inverse = np.unique(root, return_index=True, return_inverse=True)
    rank = first[inverse]  # components by where they are met first
    order = np.lexsort((place, part, rank))
    root, part, place, rank = root[order], part[order], place[order], rank[order]
    starts = np.flatnonzero(np.diff(rank, prepend=-1))
    ends = np.append(starts[1:], len(rank))
    members: dict[tuple[bool, bytes], list[int]] = {}
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        members.setdefault((int(root[start]) in pinned, part[start:end].tobytes()), []).append(start)
    for (stays, key), own in members.items():
        lying = np.frombuffer(key, dtype=part.dtype)
        where = place[np.asarray(own)[:, None] + np.arange(len(lying))]  # [units, parts with repetition]
        places = [(parts[index], where[:, lying == index]) for index in dict.fromkeys(lying.tolist())]
        yield _Group(places, int(root[own[0]]), stays)


def _site(tracer: Tracer, group: _Group, name: str, part: str, step: int, weighted: bool) -> HiddenSite:
    slices, settings, readers = [], [], []
    least = 1
    for each, places in group.places:
        layer = tracer.model.get_submodule(each.module)
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            least = 2  # with one channel a group it would be depthwise, and with one group neither
        whole = np.array_equal(places.ravel(), np.arange(len(each.numbers)))
        listed = () if whole else tuple(map(tuple, places.tolist()))
        slices.append(Slice(each.name, each.dim, (each.role,), places=listed))
        if each.role == "output":
            readers.append(Reader(each.module, tracer.norm_of(each.module)))
        if each.module in tracer.grouped and each.name == f"{each.module}.weight":
            settings.append(Setting(each.module, "groups", tracer.grouped[each.module], each.name))
    units, together = next(places.shape for each, places in group.places if each.writes)
    full = together * units
    return HiddenSite(
        name=name,
        label=" + ".join(group.writers),
        part=part,
        full=full,
        grain=together,
        least=min(full, least * together),
        step=min(full, -(-step // together) * together),
        slices=tuple(slices),
        settings=tuple(settings),
        readers=tuple(readers),
        sort="conv",
        weighted=weighted,
        together=together,
    )
