"""State dicts inside what training frameworks save around them.

`{"model": ...}`, `{"state_dict": {"model.x": ...}}` (Lightning), `{"ema": {"module": ...}}`, `module.` (data-parallel),
`_orig_mod.` (torch.compile), and any of these inside each other: weights are found by what is in them, whatever stands
around. The key of a set of weights is what stands around, with dots: `state_dict.ema` is the set whose tensors are
`content["state_dict"]["ema"]["x"]` or `content["state_dict"]["ema.x"]`; a dot alone is the set with nothing around it.
"""

import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from greedyprune.errors import UserError
from greedyprune.ranges import shown

State = dict[str, Tensor]

_DEPTH = 6  # dictionaries around a set of weights
_COMPILED = "_orig_mod"  # what torch.compile puts between a module's name and those of its parts
# What the names of a set of weights start with: of a detector, of HuggingFace's, MMDetection's, or of a backbone alone.
_TOP = re.compile(r"(?<![^.])(?:(?:transformer|model)\.(?:en|de)coder\.layers\.\d+\.|bbox_head\.|layer1\.0\.)")
_PARAMETER = re.compile(r".+\.(?:weight|bias|running_mean|running_var)")
_WHOLE = "."  # the key of weights with nothing around them
_LONGEST = 1000  # characters of a name that are looked at
_SHOWN_KEYS = 6


class Weights(NamedTuple):
    """A set of weights in a checkpoint.

    Attributes:
        key: what stands around it; empty: nothing.
        named: what the names of the dictionary hold in which it lies.
        top: what its own names begin with there.
    """

    key: str
    named: dict[str, Any]
    top: str = ""

    def inside(self) -> dict[str, Any]:
        """What it holds, by its own names."""
        start = f"{self.top}." if self.top else ""
        return {name[len(start) :]: value for name, value in self.named.items() if name.startswith(start)}


def unwrap(content: Any, place: str, key: str | None = None) -> State:
    """The tensors of the one set of weights in a checkpoint.

    Args:
        content: what the file holds.
        place: where it was read, for messages.
        key: which set of weights, where there are several.

    Raises:
        UserError: there is none, or there are several and no key, with the keys that there are.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{place} holds a {type(content).__name__}, not a checkpoint with a state dict")
    dictionaries = [Weights(path, _named(each, place)) for path, each in _dictionaries(content)]
    known = [weights for each in dictionaries for weights in _known(each)]
    if key is not None:
        key = "" if key == _WHOLE else key
        exact = [weights for weights in known if weights.key == key]
        known = exact or [weights for weights in known if _within(weights.key, key)] or _under(dictionaries, key)
    elif not known:
        # Of no kind that is known: what reads it says what it lacks.
        known = [each for each in dictionaries if any(_is_parameter(*entry) for entry in each.named.items())]
        known = known or [each for each in dictionaries if any(isinstance(v, Tensor) for v in each.named.values())]
    if not known:
        under = "" if key is None else f" under {shown(key)}"
        there = _listed([str(name) for name in content]) or "none"
        raise UserError(f"{place} holds no tensors{under}: its keys are {there}")
    if len(known) > 1:
        found, last = [weights.key for weights in known], known[-1].key or _WHOLE
        raise UserError(
            f"{place} holds several sets of weights: {_listed(found)}; choose one, as --key {last} (in Python "
            f"key={last!r}), or save it alone"
        )
    return _tensors(known[0], place)


def training_arguments(content: Mapping[Any, Any]) -> dict[str, Any]:
    """The training arguments that published code stores beside the weights; empty: none.

    What MMEngine stores instead, its `meta`, is there under that name.
    """
    arguments = content.get("args")
    if isinstance(arguments, Namespace):
        arguments = vars(arguments)
    found = dict(arguments) if isinstance(arguments, Mapping) else {}
    return {**found, "meta": content["meta"]} if "meta" in content else found


def _dictionaries(content: Mapping[Any, Any]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """All dictionaries inside a checkpoint and their keys, each once: it may hold one under two names."""
    seen, level = {id(content)}, [("", content)]
    for _ in range(_DEPTH):
        yield from level
        below = []
        for path, each in level:
            for name, value in each.items():
                if isinstance(name, str) and isinstance(value, Mapping) and id(value) not in seen:
                    seen.add(id(value))
                    below.append((_joined(path, name), value))
        level = below


def _named(dictionary: Mapping[Any, Any], place: str) -> dict[str, Any]:
    """What a dictionary's names hold, without what torch.compile adds to them."""
    named: dict[str, Any] = {}
    for name, value in dictionary.items():
        if not isinstance(name, str):
            continue
        plain = ".".join(part for part in name.split(".") if part != _COMPILED)
        if plain in named:
            raise UserError(f"{place} holds {plain} twice, compiled and not; save the module's own state_dict()")
        named[plain] = value
    return named


def _known(dictionary: Weights) -> list[Weights]:
    """The sets of weights among a dictionary's names; what lies in one, as a detector's backbone, is no other."""
    tops = set()
    for name, value in dictionary.named.items():
        if _is_parameter(name, value) and (match := _TOP.search(name, 0, _LONGEST)):
            tops.add(name[: match.start()].rstrip("."))
    inner = {top for top in tops if top and "" in tops}
    for top in tops:
        above, dot, _ = top.rpartition(".")
        while dot:
            if above in tops:
                inner.add(top)
            above, dot, _ = above.rpartition(".")
    return [Weights(_joined(dictionary.key, top), dictionary.named, top) for top in sorted(tops - inner)]


def _under(dictionaries: list[Weights], key: str) -> list[Weights]:
    """What a key names, of whatever kind it is."""
    for path, named, _ in dictionaries:
        found = Weights(key, named, key.removeprefix(path).lstrip("."))
        if _within(key, path) and any(isinstance(value, Tensor) for value in found.inside().values()):
            return [found]
    return []


def _within(key: str, outer: str) -> bool:
    return not outer or f"{key}.".startswith(f"{outer}.")


def _tensors(weights: Weights, place: str) -> State:
    held = weights.inside()
    for name, value in held.items():
        if not isinstance(value, Tensor) and _PARAMETER.fullmatch(name):
            raise UserError(f"{place} is damaged: {name} is {shown(value)}, not a tensor")
    return {name: value for name, value in held.items() if isinstance(value, Tensor)}


def _is_parameter(name: str, value: Any) -> bool:
    return isinstance(value, Tensor) and _PARAMETER.fullmatch(name) is not None


def _joined(path: str, name: str) -> str:
    return ".".join(filter(None, (path, name)))


def _listed(keys: list[str]) -> str:
    listed = ", ".join(key[:60] or _WHOLE for key in keys[:_SHOWN_KEYS])
    return f"{listed} and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else listed
