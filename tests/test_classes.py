"""Labels of a model are found in a data set by name, and by id where there are no names."""

from types import SimpleNamespace

import pytest

from greedyprune import UserError
from greedyprune.classes import Classes, map_labels, same_classes
from greedyprune.coco_classes import COCO_IDS

NAMES = tuple(COCO_IDS)


def model(names=(), ids=(), count=0):
    return Classes(count or len(names) or len(ids), tuple(ids), tuple(names))


def data(categories, unused=()):
    """What is read of a pycocotools index: all categories have annotations but the unused ones."""
    listed = {category: {"id": category, "name": name} for category, name in categories.items()}
    return SimpleNamespace(cats=listed, catToImgs={category: [1] for category in categories if category not in unused})


def found(of_model, of_data):
    return map_labels(of_model, of_data, "the data").categories


@pytest.mark.parametrize(
    ("of_model", "of_data", "categories"),
    [
        pytest.param(model(["a", "b"], [1, 2]), data({1: "a", 2: "b"}), (1, 2), id="the same"),
        pytest.param(model(["a", "b"], [1, 2]), data({0: "a", 1: "b"}), (0, 1), id="from 0"),
        pytest.param(model(["a", "b"], [0, 1]), data({0: "b", 1: "a"}), (1, 0), id="another order"),
        pytest.param(model(["a", "b", "c"], [1, 2, 3]), data({1: "c"}), (None, None, 1), id="a part"),
        pytest.param(model(["A b", "c"], [1, 2]), data({7: " a  B\n", 8: "C"}), (7, 8), id="case and blanks"),
        pytest.param(model(["car", "Car"], [1, 2]), data({5: "Car", 6: "car"}), (6, 5), id="case that matters"),
        pytest.param(model(["n", "n", "a"], [0, 1, 2]), data({1: "n", 3: "a"}), (None, 1, 3), id="a name twice"),
        pytest.param(model(["", " "], [0, 1]), data({0: "", 1: " "}), (0, 1), id="empty names"),
        pytest.param(model(["caf\u00e9"], [1]), data({4: "cafe\u0301"}), (4,), id="accents"),
        pytest.param(model(["0", "1"], [0, 1]), data({1: "0", 2: "1"}), (1, 2), id="names that are numbers"),
        pytest.param(model(["a"], [1]), data({0: "background", 1: "a"}, unused={0}), (1,), id="an unused class 0"),
        pytest.param(model(["N/A", "a"], [0, 1]), data({3: "a"}), (None, 3), id="a class 0 of the model"),
        pytest.param(model(ids=[3, 8]), data({8: "x", 3: "y"}), (3, 8), id="ids alone"),
        pytest.param(model(count=3), data({0: "x", 2: "y"}), (0, None, 2), id="labels are ids"),
        pytest.param(model(count=2), data({1: "x", 2: "y"}), (1, 2), id="labels in order"),
    ],
)
def test_every_label_has_the_category_of_its_class(of_model, of_data, categories):
    assert found(of_model, of_data) == categories


@pytest.mark.parametrize("labels", [80, 91])
@pytest.mark.parametrize(
    "categories",
    [
        pytest.param(dict(enumerate(NAMES)), id="80 from 0"),
        pytest.param(dict(enumerate(NAMES, start=1)), id="80 from 1"),
        pytest.param({category: name for name, category in COCO_IDS.items()}, id="its own ids"),
        pytest.param({0: "background", **dict(enumerate(map(str.upper, NAMES), start=1))}, id="and a background"),
    ],
)
def test_a_model_of_coco_without_names_finds_cocos_classes_by_name_and_says_so(labels, categories):
    unused = {category for category, name in categories.items() if name == "background"}
    mapped = map_labels(model(count=labels), data(categories, unused), "x")
    label_of = {category: label for label, category in enumerate(mapped.categories) if category is not None}
    for category, name in categories.items():
        if name != "background":
            own = COCO_IDS[name.lower()] if labels == 91 else NAMES.index(name.lower())
            assert label_of[category] == own
    as_published = all(category == label for category, label in label_of.items())
    assert ("no class names" in mapped.note) != as_published


def test_labels_that_are_taken_in_order_are_told():
    assert "in the order of their ids" in map_labels(model(count=2), data({1: "x", 2: "y"}), "x").note
    assert not map_labels(model(["a"], [3]), data({5: "a"}), "x").note


@pytest.mark.parametrize(
    ("of_model", "of_data", "words"),
    [
        (
            model(["a"], [1]),
            data({1: "a", 2: "b"}),
            "detects 1 classes and DIR has 2: category 2 (b) of the data",
        ),
        (model(["a"], [1]), data({1: "b"}), "category 1 (b; a in the model) of the data is none of the model's"),
        (model(["a", "A"], [1, 2]), data({5: "\u00e1", 6: "x"}), "categories 5 (\u00e1), 6 (x) of the data are none"),
        (model(["a"], [9]), data(dict(enumerate("bcdefg"))), "categories 0 (b), 1 (c), 2 (d) and 3 more of the data"),
        (model(["a"], [9]), data({1: "[/red]\n\ud800"}), "category 1 ([/red]\\n\\ud800) of the data"),
        (model(["car"], [1]), data({1: "car", 2: "Car"}), "category 2 (Car) of the data"),
        (model(count=3), data({1: "x", 5: "y"}), "has no class names: its labels are taken by their ids"),
        (model(ids=[3, 8]), data({3: "x", 4: "y"}), "category 4 (y) of the data"),
    ],
)
def test_categories_that_the_model_lacks_are_named_with_the_way_on(of_model, of_data, words):
    with pytest.raises(UserError) as refusal:
        map_labels(of_model, of_data, "DIR")
    line = str(refusal.value)
    assert words in line
    assert "--new_classes" in line
    assert "\n" not in line


def test_a_category_without_annotations_needs_no_label():
    assert found(model(["a"], [1]), data({4: "a", 5: "b"}, unused={5})) == (4,)


def test_no_class_is_two_of_the_others():
    ours, theirs = model(["a", "A", " a"], [1, 2, 3]), model(["A", "a "], [1, 2])
    assert same_classes(ours, theirs) == {1: 0}
    assert same_classes(ours, model(count=3)) == {}


def test_names_for_some_labels_only_are_refused():
    with pytest.raises(UserError, match="2 class names for 3 classes"):
        Classes(3, names=("a", "b"))
