"""Measured time of every site at its widths on this device: what `--cost latency` saves."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from greedyprune.errors import UserError
from greedyprune.evaluation.profile import call_times
from greedyprune.models.deploy import deployed, folded
from greedyprune.models.detector import Detector
from greedyprune.pruning.damage import width_grid
from greedyprune.pruning.prefix import Place, advance, begin, site_place
from greedyprune.pruning.sites import Site
from greedyprune.pruning.transplant import replaced, slim_tensors
from greedyprune.ranges import POSITIVE
from greedyprune.search.stored import REMEDY, check_numbers, check_values

ROUNDS = 5  # all widths of a site are timed in turn, so often: what else the device does meets all of them
RUNS = 3  # calls of each in a round

Table = dict[str, Any]


def measure_sites(model: Detector, sites: Sequence[Site], images: list[Tensor], step: Callable[[str], int]) -> Table:
    """Time a site's part of the `deployed` model (half a layer, or a block of the backbone) at several widths.

    Args:
        model: the dense detector, on the device where it will run.
        sites: its sites.
        images: one batch.
        step: the step of a site's width, by its kind.

    Returns:
        JSON values: `dense`, milliseconds of the whole model for the batch; `batch`, its images; `sites`: for each by
        name its widths, ascending, and the median milliseconds at each.
    """
    device = images[0].device
    with torch.inference_mode():
        table: Table = {"batch": len(images), "sites": {}}
        runs = ROUNDS * RUNS
        fast = deployed(model)
        table["dense"] = float(np.median(call_times(lambda: fast(images), device, 2, runs)))
        prefix = begin(fast.features(images))
        inputs = _block_inputs(fast, sites, images)
        state = dict(model.state_dict())
        for site in sites:
            if site.part != "backbone":
                prefix = advance(model, prefix, site_place(site))
            widths = width_grid(site, step(site.kind))
            cuts = [slim_tensors(site, state, _first(site, width)) for width in widths]
            parts = [_block(model, site, tensors, inputs) or _half_layer(model, prefix) for tensors in cuts]
            times: list[list[float]] = [[] for _ in widths]
            for _ in range(ROUNDS):
                for own, tensors, part in zip(times, cuts, parts, strict=True):
                    with replaced(model, tensors):
                        own += call_times(part, device, 1, RUNS)
            table["sites"][site.name] = [widths, [float(np.median(own)) for own in times]]
    return table


def check_table(table: Any, sites: Sequence[Site], step: Callable[[str], int], place: str) -> Table:
    """A stored table, as `measure_sites` makes it for these sites and steps.

    Raises:
        UserError: it is none.
    """
    whole = table if isinstance(table, dict) else {}
    check_values(whole, {"dense": POSITIVE, "sites": dict}, f"{place}: its latency")
    for site in sites:
        widths = width_grid(site, step(site.kind))
        row = whole["sites"].get(site.name)
        if not isinstance(row, list) or len(row) != 2 or row[0] != widths:
            raise UserError(f"{place}: latency of {site.name} is not of the widths {widths}; {REMEDY}")
        check_numbers(row[1], len(widths), f"latency of {site.name}", place)
    return whole


def _half_layer(model: Detector, prefix: Any) -> Callable[[], Any]:
    here: Place = prefix.place
    after = Place(here.decoder, here.layer + 1) if here.ffn else Place(here.decoder, here.layer, True)
    return lambda: advance(model, prefix, after)


def _block_name(site: Site) -> str:
    return site.reads.removesuffix(".weight").rpartition(".")[0]


def _block_inputs(model: Detector, sites: Sequence[Site], images: list[Tensor]) -> dict[str, tuple[Any, ...]]:
    """What each block of the backbone that has sites gets, by its name."""
    inputs: dict[str, tuple[Any, ...]] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args: inputs.update({name: args})

    with ExitStack() as stack:
        for name in {_block_name(site) for site in sites if site.part == "backbone"}:
            stack.callback(model.get_submodule(name).register_forward_pre_hook(keep(name)).remove)
        model.features(images)
    return inputs


def _block(
    model: Detector, site: Site, tensors: Mapping[str, Tensor], inputs: Mapping[str, tuple[Any, ...]]
) -> Callable[[], Any] | None:
    """The block of the backbone around a site, as it is deployed with these tensors; None: the site is in no block."""
    if site.part != "backbone":
        return None
    name = _block_name(site)
    with replaced(model, tensors):
        block = folded(model.get_submodule(name))
    return lambda: block(*inputs[name])


def _first(site: Site, width: int) -> list[int]:
    """The first channels of every group: which ones makes no difference to the time."""
    each = width // site.groups
    return [group * site.group_width + channel for group in range(site.groups) for channel in range(each)]
