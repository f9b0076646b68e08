"""What a scorer may look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from greedyprune.models.detector import Detector
from greedyprune.models.matcher import Target
from greedyprune.pruning.calibrate import SiteMoments, calibrate
from greedyprune.pruning.cut import State
from greedyprune.pruning.prefix import Prefix
from greedyprune.pruning.sites import Site


@dataclass
class Given:
    """A dense detector and calibration images.

    Attributes:
        model: the detector, in eval mode; scorers leave it as it is.
        sites: its sites.
        batches: calibration images before the first encoder layer, with their targets.
        seed: of everything that is drawn.
    """

    model: Detector
    sites: Sequence[Site]
    batches: Sequence[tuple[Prefix, list[Target]]]
    seed: int = 0

    @cached_property
    def state(self) -> State:
        """A copy of the model's tensors, which stays as it is while the model is cut and mended."""
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    @cached_property
    def moments(self) -> dict[str, SiteMoments]:
        """What the sites carry, by their name; measured when it is first asked for."""
        return calibrate(self.model, self.sites, (prefix for prefix, _ in self.batches), self.seed)
