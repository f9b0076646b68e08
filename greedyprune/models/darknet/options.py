"""What a Darknet detector is beside its layers: what its labels mean, and what its numbers are computed by."""

from dataclasses import dataclass

from greedyprune.classes import Classes
from greedyprune.errors import UserError
from greedyprune.models.options import check_labels
from greedyprune.ranges import Share, check_ranges, check_types, shown

ORDERS = ("darknet", "plain")
EPSILONS = ("darknet", "pytorch")


@dataclass(frozen=True)
class DarknetInfo:
    """What neither layers nor weights of a Darknet detector tell.

    Attributes:
        class_names: name of every label; empty: not known.
        category_ids: the data's category id of every label; empty: not known.
        reorg: order of the channels that reorg layers give: `darknet`, as its own weights were trained with, or
            `plain`, as those of pytorch-yolo2; see `Reorg`.
        norm_epsilon: what batch norms divide by: `darknet`, the deviation + 1e-6, or `pytorch`, the root of the
            variance + 1e-5. They differ where a variance is tiny.
        score_threshold: detections of no higher score are left out; a measurement of AP wants it low.
        nms_iou: of two boxes that overlap more (IoU) the less certain one is left out.
        per_class_nms: boxes of different classes leave each other alone; else only the objectness counts, as published.
    """

    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    reorg: str = "darknet"
    norm_epsilon: str = "darknet"
    score_threshold: Share = 0.005
    nms_iou: Share = 0.45
    per_class_nms: bool = False

    def __post_init__(self) -> None:
        check_labels(self.class_names, self.category_ids)
        check_ranges(self, "{} of the model".format)
        check_types(self, "{} of the model".format)
        for name, choices in (("reorg", ORDERS), ("norm_epsilon", EPSILONS)):
            if getattr(self, name) not in choices:
                raise UserError(
                    f"{name} of the model is {shown(getattr(self, name))}; choose one of {', '.join(choices)}"
                )

    def classes(self, count: int) -> Classes:
        """The classes of a detector that has so many."""
        return Classes(count, self.category_ids, self.class_names)
