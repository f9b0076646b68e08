"""What a scorer may look at."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from greedyprune.models.detector import Detector
from greedyprune.models.matcher import Target
from greedyprune.pruning.calibrate import SiteMoments, calibrate
from greedyprune.pruning.convolution import calibrate_backbone
from greedyprune.pruning.cut import State
from greedyprune.pruning.moments import Moments
from greedyprune.pruning.prefix import Prefix
from greedyprune.pruning.sites import Site


@dataclass
class Given:
    """A dense detector and calibration images.

    Attributes:
        model: the detector, in eval mode; scorers leave it as it is.
        sites: its sites.
        batches: goes through the calibration images before the first encoder layer, with their targets, from the start.
        images: the same for the images themselves; only backbone sites need them.
        seed: of everything that is drawn.
    """

    model: Detector
    sites: Sequence[Site]
    batches: Callable[[], Iterable[tuple[Prefix, list[Target]]]]
    images: Callable[[], Iterable[list[Tensor]]] = tuple
    seed: int = 0

    @cached_property
    def state(self) -> State:
        """A copy of the model's tensors, which stays as it is while the model is cut and mended."""
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def prefixes(self) -> Iterator[Prefix]:
        """Goes through the calibration images before the first encoder layer, from the start."""
        return (prefix for prefix, _ in self.batches())

    @property
    def layer_sites(self) -> list[Site]:
        """The sites in the Transformer."""
        return [site for site in self.sites if site.part != "backbone"]

    @cached_property
    def moments(self) -> dict[str, SiteMoments]:
        """What the Transformer's sites carry, by their name; measured when it is first asked for."""
        return calibrate(self.model, self.layer_sites, self.prefixes(), self.seed) if self.layer_sites else {}

    @cached_property
    def unfolded(self) -> dict[str, Moments]:
        """What the readers of backbone sites unfold, by the site's name; measured when it is first asked for."""
        sites = [site for site in self.sites if site.part == "backbone"]
        return calibrate_backbone(self.model, sites, self.images()) if sites else {}
