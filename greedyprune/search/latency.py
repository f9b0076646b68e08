"""Measured time of every site at its widths on this device: what `--cost latency` saves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from greedyprune.evaluation.profile import call_times
from greedyprune.pruning.bench import Bench
from greedyprune.pruning.calls import END
from greedyprune.pruning.damage import width_grid
from greedyprune.pruning.replay import Replay, Tape
from greedyprune.pruning.transplant import shape_change
from greedyprune.search.options import SearchOptions
from greedyprune.sites import Site, installed

ROUNDS = 5  # all widths of a site are timed in turn, so often: what else the device does meets all of them
RUNS = 3  # calls of each in a round


@dataclass(frozen=True)
class LatencyTable:
    """Median milliseconds of the deployed detector.

    Attributes:
        dense: of the whole dense detector, for the batch.
        batch: images in it.
        sites: site name -> (widths ascending, time of all that comes after the site's place at each).
    """

    dense: float
    batch: int
    sites: Mapping[str, tuple[Sequence[int], Sequence[float]]]

    def stored(self) -> dict[str, Any]:
        """For a study."""
        return {"dense": self.dense, "batch": self.batch, "sites": {n: list(t) for n, t in self.sites.items()}}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "LatencyTable":
        """From what a study stores."""
        sites = {name: (tuple(widths), tuple(times)) for name, (widths, times) in stored["sites"].items()}
        return cls(float(stored["dense"]), int(stored["batch"]), sites)


def measure_sites(bench: Bench, sites: Sequence[Site], images: list[Tensor], options: SearchOptions) -> LatencyTable:
    """Time the deployed detector at several widths of every site, from the site on.

    Args:
        bench: the dense detector, on the device where it will run.
        sites: its sites.
        images: one batch.
        options: the steps of widths.
    """
    family, device = bench.family, images[0].device
    inputs = family.inputs(bench.model, images)
    with torch.inference_mode():
        fast = family.deployed(bench.model)
        runs = ROUNDS * RUNS
        dense = call_times(lambda: family.answer(fast, inputs, last_only=True), device, 2, runs)
    table = {}
    tape = Tape.of_inputs(inputs)
    for site in sites:
        grid = width_grid(site, options.step(site))
        changes = [shape_change([site], bench.state, {site.name: width}) for width in grid]
        place = bench.felt(changes[0])
        here = tape if place in (None, END) else bench.replay(last_only=True).forwarded(tape, place)
        passes: list[Replay] = []
        for change in changes:
            with installed(bench.model, change):
                passes.append(bench.replay(last_only=True, fast=True))
        times: list[list[float]] = [[] for _ in grid]
        with torch.inference_mode():
            for _ in range(ROUNDS):
                for own, replay in zip(times, passes, strict=True):
                    own += call_times(partial(replay.answer, here), device, 1, RUNS)
        table[site.name] = (tuple(grid), tuple(float(np.median(own)) for own in times))
    return LatencyTable(float(np.median(dense)), len(images), table)
