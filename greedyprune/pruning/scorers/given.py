"""What a scorer may look at."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from greedyprune.pruning.bench import Activations, Bench
from greedyprune.pruning.calibrate import calibrate
from greedyprune.pruning.constants import constants
from greedyprune.pruning.kinds.channels import ChannelSite, SiteMoments
from greedyprune.pruning.kinds.readers import Constants
from greedyprune.pruning.scorers.items import item_order
from greedyprune.sites import AttentionSite, CountSite, HiddenSite, Site

if TYPE_CHECKING:
    Orders = Mapping[str, Tensor]


@dataclass
class Given:
    """A dense detector and calibration images.

    Attributes:
        images: calibration images with answers of all layers; scorers leave their bench as it is.
        sites: the sites to order.
        orders: the scorers by name; see `ORDERS`.
        seed: of everything that is drawn.
    """

    images: Activations
    sites: Sequence[Site]
    orders: "Mapping[str, Callable[[Given], Orders]]"
    seed: int = 0
    _known: "dict[str, Orders]" = field(default_factory=dict, repr=False)

    @property
    def bench(self) -> Bench:
        return self.images.bench

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The dense model's tensors."""
        return self.bench.state

    @property
    def channel_sites(self) -> list[ChannelSite]:
        """The sites whose channels can be ordered."""
        return [site for site in self.sites if isinstance(site, (AttentionSite, HiddenSite))]

    @cached_property
    def moments(self) -> dict[str, SiteMoments]:
        """What the sites carry, by their name; measured when it is first asked for."""
        return calibrate(self.images, self.channel_sites, self.seed)

    @cached_property
    def constants(self) -> Constants:
        """What is left of channels whose filters are zero, by the module that reads them."""
        return constants(self.images, self.sites)

    def order(self, site: ChannelSite, scorer: str) -> Tensor:
        """`[groups, units]` of a site, best first."""
        if scorer not in self._known:
            self._known[scorer] = self.orders[scorer](self)
        return self._known[scorer][site.name]

    def items(self, site: CountSite) -> list[int]:
        """The items of a count, from most to least worth keeping."""
        return item_order(site, self.images)
