"""What the sites of a dense detector carry, over calibration images, and how much of it its answer depends on."""

from collections.abc import Sequence
from contextlib import ExitStack

import torch

from greedyprune.pruning.bench import Activations
from greedyprune.pruning.kinds import kind_of
from greedyprune.pruning.kinds.channels import SiteMoments
from greedyprune.pruning.sensitivity import answer_gradients
from greedyprune.sites import Site


def calibrate(images: Activations, sites: Sequence[Site], seed: int = 0) -> dict[str, SiteMoments]:
    """Moments of what every site carries, weighted by sensitivity.

    Padded positions count nowhere. Memory is that of one batch and of the moments, whatever the number of images.

    Args:
        images: calibration images.
        sites: the sites to look at; some kinds carry nothing.
        seed: of the random projections that measure sensitivity.

    Returns:
        Moments by the site's name.
    """
    bench = images.bench
    model, family = bench.model, bench.family
    meters = {site.name: meter for site in sites if (meter := kind_of(site).meter(site, model)) is not None}
    generator = torch.Generator().manual_seed(seed)
    with ExitStack() as stack:
        for meter in meters.values():
            meter.watch(model, stack)

        def begin(*_: object) -> None:  # a pass may be begun again in the middle, see `Missing`
            for meter in meters.values():
                meter.forget()

        stack.callback(model.register_forward_pre_hook(begin).remove)
        graph = any(meter.weighted for meter in meters.values())
        for inputs, answer, _ in images.passes(graph=graph):
            places = [probe for meter in meters.values() for probe in meter.probes]
            gradients = answer_gradients(answer, places, generator) if graph else [[]]
            with torch.no_grad():
                start = 0
                for meter in meters.values():
                    end = start + len(meter.probes)
                    meter.count(
                        [each[start:end] for each in gradients],
                        lambda module, output, inputs=inputs: family.shown(model, inputs, module, output),
                    )
                    start = end
    return {name: meter.moments for name, meter in meters.items()}
