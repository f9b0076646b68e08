"""Classes of models and categories of data, and which of them are the same."""

import unicodedata
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greedyprune.coco_classes import COCO_IDS, COCO_LABELS
from greedyprune.errors import UserError
from greedyprune.text import printable

_BY_IDS = "the model has no class names; the data's category ids are taken to mean the same to it"
_SHOWN = 3  # categories that a message names
ADVICE = (
    "fine-tune it to the data's classes with tools/train.py --new_classes, --resume a checkpoint of these classes, or "
    "give the model's data as --coco_path"
)


@dataclass(frozen=True)
class Classes:
    """Classes in the order of their labels.

    Attributes:
        count: number of labels.
        ids: category id of every label; empty: not known, by convention labels are then ids themselves.
        names: name of every label; empty: not known.

    Raises:
        UserError: as many ids or names as labels are needed.
    """

    count: int
    ids: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, listed in (("category ids", self.ids), ("class names", self.names)):
            if listed and len(listed) != self.count:
                raise UserError(f"there are {len(listed)} {what} for {self.count} classes; one for each is needed")

    @classmethod
    def of_data(cls, coco: Any) -> "Classes":
        """The categories of a pycocotools index, by id."""
        ids = tuple(sorted(coco.cats))
        return cls(len(ids), ids, tuple(str(coco.cats[category].get("name", category)) for category in ids))

    @property
    def known_ids(self) -> tuple[int, ...]:
        """The category id of every label, known or by convention."""
        return self.ids or tuple(range(self.count))


@dataclass(frozen=True)
class LabelMap:
    """What the labels of a model are in a data set.

    Attributes:
        categories: the data's category id of every label; None: the data lack this class.
        note: what a user should know of how it was found; empty: nothing.
    """

    categories: tuple[int | None, ...]
    note: str = ""


def same_classes(ours: Classes, theirs: Classes) -> dict[int, int]:
    """Labels of `ours` -> labels of `theirs` that have the same name.

    First those whose name and id agree, then those whose name agrees, then those whose name agrees but for case and
    blanks. A name that either side has twice among the labels that are left, or that is empty, says nothing.
    """
    if not ours.names or not theirs.names:
        return {}
    found: dict[int, int] = {}
    keys: tuple[Callable[[str, int], Hashable], ...] = (
        lambda name, category: (name, category),
        lambda name, category: name,
        lambda name, category: folded(name),
    )
    for key in keys:
        left = _unique(ours, key, found.keys())
        right = _unique(theirs, key, found.values())
        found |= {left[each]: right[each] for each in left if each in right}
    return found


def _unique(classes: Classes, key: Callable[[str, int], Hashable], taken: Iterable[int]) -> dict[Hashable, int]:
    """The labels that are not taken, by keys that only one of them has."""
    done = set(taken)
    places: dict[Hashable, list[int]] = {}
    for label, (name, category) in enumerate(zip(classes.names, classes.known_ids, strict=True)):
        if label not in done and (each := key(name, category)):
            places.setdefault(each, []).append(label)
    return {each: labels[0] for each, labels in places.items() if len(labels) == 1}


def folded(name: str) -> str:
    """A name without what is only a way of writing it: case, blanks, and how accents are encoded."""
    return " ".join(unicodedata.normalize("NFC", name).split()).casefold()


def map_labels(model: Classes, coco: Any, place: str | Path, advice: str = ADVICE) -> LabelMap:
    """Which category of a data set every label of a model is.

    Where the model has names, categories are found by name (see `same_classes`), whatever their ids. Without names,
    ids decide:

    - the model's own ids, where it has them;
    - COCO's, for a model of 91 labels (COCO's ids) or 80 (COCO's classes in order) on data with COCO's 80 names;
    - else labels are category ids, as in published models; where the data's ids go beyond the labels and there are as
      many categories as labels, labels are the categories in the order of their ids.

    Args:
        model: the classes of the model.
        coco: a pycocotools index of the data.
        place: names the data in messages.
        advice: what to do where they do not fit.

    Raises:
        UserError: annotations are of a category that the model lacks. Categories without annotations need no label.
    """
    data = Classes.of_data(coco)
    labels, note = _by_name(model, data) if model.names else _by_id(model, data)
    missing = [
        (category, name)
        for category, name in zip(data.known_ids, data.names, strict=True)
        if category not in labels and coco.catToImgs.get(category)
    ]
    if missing:
        raise UserError(f"{_lacking(model, data, missing, place)}; {advice}")
    categories: list[int | None] = [None] * model.count
    for category, label in labels.items():
        if category in coco.cats:
            categories[label] = category
    return LabelMap(tuple(categories), note)


def _by_name(model: Classes, data: Classes) -> tuple[dict[int, int], str]:
    """Category id -> label, and a note."""
    return {data.known_ids[place]: label for place, label in same_classes(data, model).items()}, ""


def _by_id(model: Classes, data: Classes) -> tuple[dict[int, int], str]:
    """Category id -> label of a model without names, and a note."""
    own = {category: label for label, category in enumerate(model.known_ids)}
    if model.ids:
        return own, _BY_IDS
    coco = _coco(model.count)
    if coco is not None and len(found := same_classes(data, coco)) == len(COCO_IDS):
        labels = {data.known_ids[place]: label for place, label in found.items()}
        way = "COCO's classes, which the data's categories are by name"
    elif data.count == model.count and not set(data.known_ids) <= set(own):
        labels = {category: label for label, category in enumerate(data.known_ids)}
        way = "the data's categories in the order of their ids"
    else:
        return own, _BY_IDS
    usual = all(category == label for category, label in labels.items())
    return labels, "" if usual else f"the model has no class names; its {model.count} labels are taken as {way}"


def _coco(count: int) -> Classes | None:
    """COCO's classes as a model with so many labels has them; None: such a model is not COCO's."""
    if count == COCO_LABELS:
        by_id = {category: name for name, category in COCO_IDS.items()}
        return Classes(count, names=tuple(by_id.get(label, "") for label in range(count)))
    return Classes(count, names=tuple(COCO_IDS)) if count == len(COCO_IDS) else None


def _lacking(model: Classes, data: Classes, missing: list[tuple[int, str]], place: str | Path) -> str:
    named = dict(zip(model.known_ids, model.names, strict=True)) if model.names else {}
    there = {category: f"; {printable(name, 40)} in the model" for category, name in named.items()}
    shown = ", ".join(
        f"{category} ({printable(name, 40)}{there.get(category, '')})" for category, name in missing[:_SHOWN]
    )
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    which = f"category {shown} of the data is" if len(missing) == 1 else f"categories {shown}{more} of the data are"
    has = "" if model.names else " (it has no class names: its labels are taken by their ids)"
    return f"the model detects {model.count} classes{has} and {place} has {data.count}: {which} none of the model's"
