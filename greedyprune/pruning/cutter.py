"""Changes of any widths, from a dense model and calibration images."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from torch import Tensor

from greedyprune.pruning.kinds import SiteCut, kind_of
from greedyprune.pruning.scorers import Given
from greedyprune.sites import AttentionSite, Change, HiddenSite, Site, Trimmed, Widths

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
        # By site and width: the tensors that it was made of, and the change.
        self._changes: dict[tuple[str, int], tuple[tuple[Tensor, ...], Change]] = {}

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
        """A site's change; of the same tensors it is made only once."""
        cut = self.cuts[site.name]
        given = tuple(state[name] for name in sorted(touched(site)) if name in state)
        known = self._changes.get((site.name, width))
        if known is None or any(one is not other for one, other in zip(known[0], given, strict=True)):
            known = self._changes[site.name, width] = given, cut.change(width, state)
        return known[1]


def touched(site: Site) -> set[str]:
    """The tensors that a change of a site may be made of, by name, some of which there may not be."""
    readers = (
        site.readers if isinstance(site, HiddenSite) else (site.reader,) if isinstance(site, AttentionSite) else ()
    )
    names = {f"{reader.module}.bias" for reader in readers} | {f"{reader.norm}.running_mean" for reader in readers}
    return names | {part.name for part in site.slices}


def combined(sites: Sequence[Site], widths: Widths, state: Mapping[str, Tensor], change: MakeChange) -> Change:
    """The changes of several sites, front to back, as one.

    Args:
        sites: the model's sites, front to back.
        widths: site name -> width; a site that is not named, or has its full width, stays as it is.
        state: the model's tensors.
        change: makes the change of a site, of a width, from tensors that the sites before it have changed.
    """
    result, now = Change(), Trimmed.of(state)
    gone = {site.name for site in sites if widths.get(site.name, site.full) == 0}
    for site in sites:
        width = widths.get(site.name, site.full)
        if width == site.full or site.inside in gone:
            continue
        own = change(site, width, now)
        result = result | own
        now = Trimmed.of(now, own)
    return result
