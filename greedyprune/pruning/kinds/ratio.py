"""Shares of something that is chosen anew for each image: nothing of the weights changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from greedyprune.pruning.kinds.base import Kind, SiteCut, State
from greedyprune.sites import Change, RatioSite

if TYPE_CHECKING:
    from greedyprune.pruning.scorers.given import Given


@dataclass(frozen=True)
class RatioCut:
    """The attribute that remembers the share gets another one.

    Attributes:
        site: the site.
    """

    site: RatioSite

    def change(self, width: int, state: State) -> Change:
        return Change(settings={(self.site.module, self.site.attribute): width / self.site.full})


class RatioKind(Kind[RatioSite]):
    """The model itself chooses what it keeps, and switched off is what it does not keep: masked and slim are one."""

    def cut(self, site: RatioSite, given: "Given", scorer: str, refit: bool) -> SiteCut:
        return RatioCut(site)

    def kept_change(self, site: RatioSite, state: State, kept: Sequence[int]) -> Change:
        return RatioCut(site).change(len(kept), state)

    def masked_change(self, site: RatioSite, state: State, kept: Sequence[int]) -> Change:
        return self.kept_change(site, state, kept)
