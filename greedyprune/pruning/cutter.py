"""Changes of any widths, from a dense model and calibration images."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from torch import Tensor

from greedyprune.pruning.kinds import SiteCut, kind_of
from greedyprune.pruning.scorers import Given
from greedyprune.sites import Change, Site, Widths

# From a site, its width and the tensors so far to its change.
MakeChange = Callable[[Site, int, Mapping[str, Tensor]], Change]


class Cutter:
    """Cuts a detector to widths: a pure function of the detector, the widths and the calibration images.

    Args:
        given: the dense detector and calibration images.
        scorer: how a site is cut.
        refit: what reads the kept channels is solved again.
    """

    def __init__(self, given: Given, scorer: str, refit: bool = True) -> None:
        self.given, self.scorer, self.refit = given, scorer, refit
        self._changes: dict[tuple[str, int], Change] = {}

    @property
    def sites(self) -> Sequence[Site]:
        return self.given.sites

    @cached_property
    def cuts(self) -> dict[str, SiteCut]:
        """How every site is cut, by its name; what it takes is measured when it is first asked for."""
        given = self.given
        return {site.name: kind_of(site).cut(site, given, self.scorer, self.refit) for site in given.sites}

    def change(self, widths: Widths) -> Change:
        """What makes the dense model as wide; a site that is not named stays dense."""
        return combined(self.sites, widths, self.given.state, self._change)

    def _change(self, site: Site, width: int, state: Mapping[str, Tensor]) -> Change:
        """A site's change; one that nothing before it touches is made only once."""
        dense = self.given.state
        if any(state[part.name] is not dense[part.name] for part in site.slices if not part.output):
            return self.cuts[site.name].change(width, state)
        key = site.name, width
        if key not in self._changes:
            self._changes[key] = self.cuts[site.name].change(width, state)
        return self._changes[key]


def combined(sites: Sequence[Site], widths: Widths, state: Mapping[str, Tensor], change: MakeChange) -> Change:
    """The changes of several sites, front to back, as one.

    Args:
        sites: the model's sites, front to back.
        widths: site name -> width; a site that is not named, or has its full width, stays as it is.
        state: the model's tensors.
        change: makes the change of a site, of a width, from tensors that the sites before it have changed.
    """
    result, now = Change(), dict(state)
    gone = {site.name for site in sites if widths.get(site.name, site.full) == 0}
    for site in sites:
        width = widths.get(site.name, site.full)
        if width == site.full or site.inside in gone:
            continue
        own = change(site, width, now)
        result = result | own
        now.update(own.tensors)
    return result
