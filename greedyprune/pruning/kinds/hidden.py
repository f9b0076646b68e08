"""Hidden channels: of FFNs, MLP heads and convolutions, which differ by the taps of what reads them alone."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from torch import Tensor, nn

from greedyprune.pruning.kinds.base import Kind, Meter, Padding, SiteCut, State
from greedyprune.pruning.kinds.channels import KeptCut, SiteMoments, check_whole, sliced, switched_off
from greedyprune.pruning.kinds.reading import ConvolutionReading, LinearReading
from greedyprune.sites import Change, HiddenSite, Reader

if TYPE_CHECKING:
    from greedyprune.pruning.scorers.given import Given


class HiddenMeter(Meter):
    """Second moments of the channels as each of their readers gets them.

    Args:
        site: the site.
        model: the dense model.
    """

    def __init__(self, site: HiddenSite, model: nn.Module) -> None:
        def reading(reader: Reader) -> LinearReading | ConvolutionReading:
            columns = site.columns(reader, model.get_parameter(reader.weight).shape[1])
            if isinstance(model.get_submodule(reader.module), nn.Conv2d):
                return ConvolutionReading(reader, model, site.weighted, columns)
            return LinearReading(reader, model, columns)

        self.readings = [reading(reader) for reader in site.readers]
        self.weighted = any(each.moments.power is not None for each in self.readings)
        self.moments = SiteMoments(tuple(each.moments for each in self.readings))

    def watch(self, model: nn.Module, stack: ExitStack) -> None:
        for reading in self.readings:
            reading.watch(stack)

    def forget(self) -> None:
        for reading in self.readings:
            reading.forget()

    @property
    def probes(self) -> Sequence[Tensor]:
        return [probe for reading in self.readings for probe in reading.probes]

    def count(self, gradients: Sequence[Sequence[Tensor]], padding: Padding) -> None:
        start = 0
        for reading in self.readings:
            probes = len(reading.probes)
            for call in range(reading.calls):
                own = [each[start + call] for each in gradients] if probes else []
                reading.count(own, padding)
            start += probes


class HiddenKind(Kind[HiddenSite]):
    """Channels are kept by an order, and what reads them is solved again."""

    def meter(self, site: HiddenSite, model: nn.Module) -> HiddenMeter:
        return HiddenMeter(site, model)

    def cut(self, site: HiddenSite, given: "Given", scorer: str, refit: bool) -> SiteCut:
        order = given.order(site, "select" if scorer == "basis" else scorer)
        if refit:
            return KeptCut(site, given.state, order, given.moments[site.name])
        return KeptCut(site, given.state, order, constants=given.constants if site.sort == "conv" else None)

    def kept_change(self, site: HiddenSite, state: State, kept: Sequence[int]) -> Change:
        return sliced(site, state, kept)

    def masked_change(self, site: HiddenSite, state: State, kept: Sequence[int]) -> Change:
        return switched_off(site, state, kept)

    def check_kept(self, site: HiddenSite, kept: Iterable[int]) -> tuple[int, ...]:
        return check_whole(site, kept, "unit")
