"""From followed channels to sites."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import nn

from greedyprune.families.channels.modules import rules_of
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
        model: in eval mode.
        forwards: run it, on inputs of different sizes where what it does depends on them.
        part: see `Site.part`.
        step: by how much a search changes a width: the next multiple of what stays together.
        weighted: see `HiddenSite.weighted`.
    """
    tracer = Tracer(model, rules_of(model), OPERATORS)
    for forward in forwards:
        tracer.run(forward)
    roots = _roots(tracer)
    why: dict[int, str] = {int(roots[STRANGER]): "meets something that no convolution writes"}
    for numbers, reason in tracer.pinned:
        why = {**dict.fromkeys(roots[numbers.numpy()].tolist(), reason), **why}
    parts = list(tracer.parts.values())
    lying = _lying(parts, roots)
    groups: dict[tuple[tuple[int, int], ...], list[int]] = {}
    unpruned: dict[str, str] = {}
    for root, places in lying.items():
        writers = [parts[index].module for index in places if parts[index].writes]
        read = any(parts[index].role == "output" for index in places)
        if root in why or not read or not writers:
            unpruned |= dict.fromkeys(writers, why.get(root, "is read by nothing"))
            continue
        groups.setdefault(tuple((index, len(found)) for index, found in places.items()), []).append(root)
    names = Counter(_first(parts, key).module for key in groups)
    numbered: Counter[str] = Counter()
    sites = []
    for key, members in groups.items():
        name = _first(parts, key).module
        numbered[name] += 1
        own = name if names[name] == 1 else f"{name}:{numbered[name]}"
        units = [lying[root] for root in members]
        sites.append(_site(tracer, parts, key, units, own, part, step, weighted))
    return Found(tuple(sites), unpruned)


def _roots(tracer: Tracer) -> np.ndarray:
    """The component of every number."""
    pairs = torch.cat([torch.empty(2, 0, dtype=torch.int64), *tracer.ties], dim=1).numpy()
    matrix = coo_matrix((np.ones(pairs.shape[1], dtype=bool), (pairs[0], pairs[1])), (tracer.count, tracer.count))
    roots: np.ndarray = connected_components(matrix, directed=False)[1]
    return roots


def _lying(parts: Sequence[Part], roots: np.ndarray) -> dict[int, dict[int, list[int]]]:
    """Of every component, in the order of the pass, its positions in every part."""
    lying: dict[int, dict[int, list[int]]] = {}
    for index, part in enumerate(parts):
        numbers = part.numbers.numpy()
        for position, (number, root) in enumerate(zip(numbers.tolist(), roots[numbers].tolist(), strict=True)):
            if number > STRANGER:
                lying.setdefault(root, {}).setdefault(index, []).append(position)
    return lying


def _first(parts: Sequence[Part], key: Sequence[tuple[int, int]]) -> Part:
    """The part of the convolution that a site is named after."""
    return next(parts[index] for index, _ in key if parts[index].writes)


def _site(
    tracer: Tracer,
    parts: Sequence[Part],
    key: Sequence[tuple[int, int]],
    units: Sequence[dict[int, list[int]]],
    name: str,
    part: str,
    step: int,
    weighted: bool,
) -> HiddenSite:
    slices, settings, readers = [], [], []
    least = 1
    for index, _ in key:
        each = parts[index]
        layer = tracer.model.get_submodule(each.module)
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            least = 2  # with one channel a group it would be depthwise, and with one group neither
        places = tuple(tuple(unit[index]) for unit in units)
        whole = [*range(len(each.numbers))] == [position for unit in places for position in unit]
        slices.append(Slice(each.name, each.dim, (each.role,), places=() if whole else places))
        if each.role == "output":
            readers.append(Reader(each.module, tracer.norm_of(each.module)))
        if each.module in tracer.grouped and each.name == f"{each.module}.weight":
            settings.append(Setting(each.module, "groups", tracer.grouped[each.module], each.name))
    together = next(count for index, count in key if parts[index].writes)
    writers = dict.fromkeys(parts[index].module for index, _ in key if parts[index].writes)
    full = together * len(units)
    return HiddenSite(
        name=name,
        label=" + ".join(writers),
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
