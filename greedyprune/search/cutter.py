"""Slim models of any widths, from a dense one and calibration images."""

from collections.abc import Callable, Mapping
from functools import cached_property

from torch import Tensor

from greedyprune.models.detector import Detector
from greedyprune.pruning.cut import SiteCut, cut_tensors
from greedyprune.pruning.mend import mend
from greedyprune.pruning.scorers import Given, make_cuts
from greedyprune.pruning.transplant import rebuilt
from greedyprune.search.images import Images
from greedyprune.search.record import Record
from greedyprune.search.steps import is_mended


class Cutter:
    """Cuts a detector to widths, and mends it: pure functions of the detector, the widths and the calibration images.

    Args:
        given: the dense detector and calibration images.
        scorer: how a site is cut.
        refit: what reads the kept channels is solved again.
        mend_steps: steps of mending.
        lessons: makes the images that a slim model is mended on; asked for once, when they are needed.
        doing: is told what takes time.
    """

    def __init__(
        self,
        given: Given,
        scorer: str,
        refit: bool,
        mend_steps: int,
        lessons: Callable[[], Images],
        doing: Callable[[str], None],
    ) -> None:
        self.given, self.scorer, self.refit, self.mend_steps, self.doing = given, scorer, refit, mend_steps, doing
        self._open_lessons = lessons
        self._mended: tuple[Mapping[str, int], dict[str, Tensor]] | None = None

    @cached_property
    def cuts(self) -> dict[str, SiteCut]:
        """How every site is cut, by its name."""
        self.doing("statistics of the calibration images")
        return make_cuts(self.scorer, self.given, self.refit)

    @cached_property
    def lessons(self) -> Images:
        """The images that slim models are mended on."""
        self.doing("images to mend with")
        return self._open_lessons()

    def tensors(self, widths: Mapping[str, int]) -> dict[str, Tensor]:
        """The tensors of sites at widths; see `cut_tensors`."""
        return cut_tensors(self.cuts, widths)

    def mended(self, widths: Mapping[str, int]) -> dict[str, Tensor]:
        """The tensors of a slim model after mending that are not those of the dense one."""
        if self._mended is None or self._mended[0] != widths:
            tensors = self.tensors(widths)
            slim = self._with(widths, tensors)
            images = self.lessons.pictures if self.cuts_backbone(widths) else None
            prefixes = (prefix for prefix, _ in self.lessons.batches(self.given.model))
            room = self.lessons.spare
            learned = mend(self.given.model, slim, prefixes, self.mend_steps, images, self.doing, room)
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
