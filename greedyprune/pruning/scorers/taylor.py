"""`taylor`: channels whose removal changes the detection loss most, to first order."""

import torch
from torch import Tensor

from greedyprune.models.criterion import Criterion
from greedyprune.pruning.calibrate import watched
from greedyprune.pruning.prefix import finish
from greedyprune.pruning.scorers.given import Given
from greedyprune.pruning.scorers.select import by_group


def taylor_orders(given: Given) -> dict[str, Tensor]:
    """By the squared derivative of each image's loss in a gate on the channel (Molchanov et al. 2019, equation 8).

    A gate's derivative is the sum over tokens of what the channel carries times the loss's gradient there.
    """
    model, sites = given.model, given.layer_sites
    criterion = Criterion(model.options.num_classes)
    device = next(model.parameters()).device
    scores = {site.name: torch.zeros(site.width, dtype=torch.float64, device=device) for site in sites}
    with watched(model, sites) as seen:
        for prefix, targets in given.batches():
            with torch.enable_grad():
                outputs = finish(model, prefix)
                loss = criterion.total(criterion(outputs, targets))
                probes = [seen[site.name].probe for site in sites]
                gradients = torch.autograd.grad(loss, probes, allow_unused=True)
            for site, gradient in zip(sites, gradients, strict=True):
                if gradient is not None:
                    carried = seen[site.name].rows * (gradient @ given.state[site.reads])  # [B, N, width]
                    scores[site.name] += carried.sum(1).double().square().sum(0)
            seen.clear()
    return {
        site.name: by_group(site, scores[site.name].sort(descending=True, stable=True).indices.cpu()) for site in sites
    }
