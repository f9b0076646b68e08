"""Slim models of any widths, from a dense one and calibration images."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

from torch import Tensor

from greedyprune.models.detector import Detector
from greedyprune.pruning.cut import SiteCut, cut_tensors
from greedyprune.pruning.mend import mend
from greedyprune.pruning.scorers import Given, make_cuts
from greedyprune.pruning.transplant import rebuilt
from greedyprune.search.images import Images, Room
from greedyprune.search.record import Record
from greedyprune.search.steps import is_mended


@dataclass(frozen=True)
class Mending:
    """What slim models are mended with.

    Attributes:
        steps: of one batch each.
        kept: makes the images that a slim model with the dense backbone learns from; always the same ones, made
            when they are needed first.
        lessons: what one with a cut backbone learns from: endless batches of images.
        keep: how many of those its layers learn from one after another.
        room: where what is kept of the images is.
    """

    steps: int
    kept: Callable[[], Images]
    lessons: Iterable[list[Tensor]]
    keep: int
    room: Room


class Cutter:
    """Cuts a detector to widths, and mends it: pure functions of the detector, the widths and the training images.

    Args:
        given: the dense detector and calibration images.
        scorer: how a site is cut.
        refit: what reads the kept channels is solved again.
        mending: what slim models are mended with.
        doing: is told what takes time.
    """

    def __init__(self, given: Given, scorer: str, refit: bool, mending: Mending, doing: Callable[[str], None]) -> None:
        self.given, self.scorer, self.refit, self.mending, self.doing = given, scorer, refit, mending, doing
        self._mended: tuple[Mapping[str, int], dict[str, Tensor]] | None = None

    @cached_property
    def cuts(self) -> dict[str, SiteCut]:
        """How every site is cut, by its name."""
        self.doing("statistics of the calibration images")
        return make_cuts(self.scorer, self.given, self.refit)

    @cached_property
    def kept(self) -> Images:
        """The images that slim models with the dense backbone are mended on."""
        self.doing("images to mend with")
        return self.mending.kept()

    def tensors(self, widths: Mapping[str, int]) -> dict[str, Tensor]:
        """The tensors of sites at widths; see `cut_tensors`."""
        return cut_tensors(self.cuts, widths)

    def mended(self, widths: Mapping[str, int]) -> dict[str, Tensor]:
        """The tensors of a slim model after mending that are not those of the dense one."""
        if self._mended is None or self._mended[0] != widths:
            tensors = self.tensors(widths)
            slim = self._with(widths, tensors)
            learn = partial(mend, self.given.model, slim, tell=self.doing)
            steps, room = self.mending.steps, self.mending.room
            if self.cuts_backbone(widths):
                learned = learn((), steps, self.mending.lessons, self.mending.keep, room=room.spare)
            else:
                prefixes = (prefix for prefix, _ in self.kept.batches(self.given.model))
                learned = learn(prefixes, steps, room=room.spare)
            state = slim.state_dict()
            self._mended = dict(widths), tensors | {name: state[name].detach() for name in learned}
        return self._mended[1]

    def slim(self, record: Record | None) -> Detector:
        """The model of a trial; None: the dense one's twin."""
        return self.model({}, False) if record is None else self.model(record.widths, is_mended(record))

    def model(self, widths: Mapping[str, int], mended: bool) -> Detector:
        """A slim model, mended or as it was cut."""
        return self._with(widths, (self.mended if mended else self.tensors)(widths) if widths else {})

    def _with(self, widths: Mapping[str, int], tensors: Mapping[str, Tensor]) -> Detector:
        model = self.given.model
        return rebuilt(model, model.cfgs.replace(dict(widths)), {**model.state_dict(), **tensors})

    def cuts_backbone(self, widths: Mapping[str, int]) -> bool:
        """Whether these widths change what the backbone gives."""
        sites = (site for site in self.given.sites if site.part == "backbone")
        return any(widths.get(site.name, site.width) < site.width for site in sites)
