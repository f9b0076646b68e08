import json

import pytest

from greedyprune import UserError
from greedyprune.data import CocoDetection
from greedyprune.evaluation import CocoEvaluator, coco_ap

NAN, INF = float("nan"), float("inf")
MISSING = object()
# Values that mean nothing, by place and field.
WRONG = {
    ("images", "id"): ["5", True, 5.5, 2**63, NAN, INF, 10**400, None, [], {}],
    ("images", "file_name"): [
        5,
        None,
        "",
        ".",
        "a/..",
        "/etc/passwd",
        "../5.png",
        "a/../../5.png",
        "a\0b",
        "\ud800.png",
    ],
    ("images", "height"): [0, -1, 20.5, "20", True, None, NAN, INF, 10**400, [20]],
    ("images", "width"): [0, "30", False, 2**63],
    ("categories", "id"): ["9", True, 9.5, -(2**63) - 1, None],
    ("categories", "name"): [9, None, ["dog"], True, {"en": "dog"}],
    ("categories", "supercategory"): [9, ["animal"]],
    ("annotations", "id"): ["1", True, 1.5, NAN, None],
    ("annotations", "image_id"): ["5", True, 5.5, [5], None],
    ("annotations", "category_id"): ["9", False, 9.5, [9], None],
    ("annotations", "bbox"): [
        None,
        [],
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [1, 2, 3, NAN],
        [1, 2, INF, 4],
        [1, 2, "3", 4],
        [1, 2, True, 4],
        [1, 2, -3, 4],
        [1, 2, 3, -0.5],
        [1, 2, 1e300, 4],
        [10**400, 2, 3, 4],
        {"x": 1},
        "1,2,3,4",
    ],
    ("annotations", "area"): ["80", -1, NAN, INF, True, [80], 10**400],
    ("annotations", "iscrowd"): ["0", "1", "x", "", NAN, [], [0], {}, 2, -1, 0.5],
    ("annotations", "segmentation"): ["mask", 5, True],
}


def edited(folder, change, name="val"):
    path = folder / "annotations" / f"instances_{name}2017.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return folder


def with_field(folder, place, key, value):
    def change(data):
        data[place][0].pop(key, None)
        if value is not MISSING:
            data[place][0][key] = value

    return edited(folder, change)


@pytest.mark.parametrize(
    ("place", "key", "value"), [(*where, value) for where, values in WRONG.items() for value in values]
)
def test_a_value_that_means_nothing_is_named_with_file_entry_and_field(two_images, place, key, value):
    with pytest.raises(UserError) as error:
        CocoDetection(with_field(two_images, place, key, value), "val")
    message = str(error.value)
    kind, id = {"images": ("image", 5), "categories": ("category", 3), "annotations": ("annotation", 1)}[place]
    name = f"{kind} number 1 of the file" if key == "id" else f"{kind} {id}"
    told = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:36]}..."
    assert f"instances_val2017.json: {name} has {key} {told}, not " in message
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize("key", ["info", "licenses"])
@pytest.mark.parametrize("value", ["none", 5, True])
def test_what_the_whole_file_says_is_checked_too(two_images, key, value):
    folder = edited(two_images, lambda data: data.update({key: value}))
    with pytest.raises(UserError, match=f"instances_val2017.json has {key} {value!r}, not an? "):
        CocoDetection(folder, "val")


@pytest.mark.parametrize("place", ["images", "categories", "annotations"])
@pytest.mark.parametrize("entry", [None, [], "x", 5])
def test_an_entry_that_is_no_object_is_named_by_its_place(two_images, place, entry):
    folder = edited(two_images, lambda data: data[place].insert(0, entry))
    with pytest.raises(UserError, match=r"number 1 of the file is .*, not an object"):
        CocoDetection(folder, "val")


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        *(("annotations", key, value) for key in ("area", "iscrowd", "segmentation") for value in (MISSING, None)),
        ("annotations", "segmentation", []),
        ("annotations", "segmentation", {"counts": [3], "size": [1, 3]}),
        ("annotations", "iscrowd", False),
        ("annotations", "iscrowd", 0.0),
        ("annotations", "id", 1.0),
        ("annotations", "image_id", 5.0),
        ("images", "height", 20.0),
        ("categories", "supercategory", None),
        ("categories", "id", 3.0),
    ],
)
def test_what_may_be_left_out_or_written_otherwise_means_the_same(two_images, place, key, value):
    plain = CocoDetection(two_images, "val")
    other = CocoDetection(with_field(two_images, place, key, value), "val")
    assert other[1][1]["boxes"].tolist() == plain[1][1]["boxes"].tolist()
    read, expected = other.coco.imgToAnns[5][0], plain.coco.imgToAnns[5][0]
    for name in ("id", "image_id", "iscrowd", "area"):
        assert (read[name], type(read[name])) == (expected[name], type(expected[name]))


@pytest.mark.parametrize("value", [0, 1, False, True, 0.0, 1.0, None, MISSING])
def test_training_and_every_evaluator_agree_on_what_a_crowd_is(two_images, value):
    """Its detection is right where the object counts, and counts for nothing where it is a crowd."""
    dataset = CocoDetection(with_field(two_images, "annotations", "iscrowd", value), "val")
    crowd = value not in (None, MISSING) and bool(value)
    assert len(dataset[1][1]["labels"]) == (1 if crowd else 2)
    row = {"image_id": 5, "category_id": 9, "bbox": [3.0, 4.0, 10.0, 8.0], "score": 0.9}
    for backend in ("pycocotools", "faster", "arrays"):
        assert coco_ap(dataset.coco, [row], [5], backend)["per_class"]["dog"] == pytest.approx(-1 if crowd else 1)


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("difficult", True, 1),
        ("truncated", 0.25, 0.25),
        ("truncated", False, 0),
        ("occluded", 3, 3),
        ("occluded", True, 1),
        ("height", 20, 20),
        ("type", "Van", "Van"),
        ("location", [1, -2.5, 3], [1, -2.5, 3]),
        *((key, None, MISSING) for key in ("difficult", "truncated", "occluded", "height", "pose", "dimensions")),
    ],
)
def test_what_voc_and_kitti_say_of_an_object_is_kept(two_images, key, value, read):
    annotation = CocoDetection(with_field(two_images, "annotations", key, value), "val").coco.imgToAnns[5][0]
    assert annotation.get(key, MISSING) == read


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("difficult", 2),
        ("truncated", 1.5),
        ("truncated", "no"),
        ("occluded", 0.5),
        ("occluded", 4),
        ("height", -1),
        ("type", 3),
        ("alpha", "left"),
        ("dimensions", [1, 2]),
        ("location", [1, 2, "far"]),
    ],
)
def test_what_voc_and_kitti_cannot_say_is_refused_by_its_name(two_images, key, value):
    with pytest.raises(UserError, match=rf"annotation 1 has {key} .*, not "):
        CocoDetection(with_field(two_images, "annotations", key, value), "val")


@pytest.mark.parametrize("key", ["info", "licenses"])
@pytest.mark.parametrize("value", [None, []])
def test_info_and_licenses_may_be_empty(two_images, key, value):
    assert len(CocoDetection(edited(two_images, lambda data: data.update({key: value})), "val")) == 2


@pytest.mark.parametrize("image_id", [0, -7, 2**53 + 1, 2**63 - 1])
@pytest.mark.parametrize("annotation_id", [0, -1, 2**63, 10**30])
def test_ids_of_any_size_are_kept(two_images, image_id, annotation_id):
    def change(data):
        data["images"][0]["id"] = image_id
        for number, annotation in enumerate(data["annotations"]):
            annotation.update(id=annotation_id + number, image_id=image_id)

    dataset = CocoDetection(edited(two_images, change), "val")
    index = dataset.image_ids.index(image_id)
    assert dataset[index][1]["image_id"] == image_id
    rows = [
        {"image_id": image_id, "category_id": category, "bbox": box, "score": 0.9}
        for category, box in ((9, [3.0, 4.0, 10.0, 8.0]), (3, [20.0, -5.0, 50.0, 15.0]))
    ]
    for backend in ("pycocotools", "faster", "arrays"):
        assert coco_ap(dataset.coco, rows, dataset.image_ids, backend)["AP"] == pytest.approx(1)
    assert CocoEvaluator(dataset.coco, dataset.image_ids).ap(rows) == pytest.approx(1)


@pytest.mark.parametrize(
    "name", ["", " ", "car [front]", "[/red]", "\U0001f697", "a\nb\tc", "\ud800", "\u05d0\u05d1", "x" * 10000]
)
def test_a_category_may_have_any_name(two_images, name):
    dataset = CocoDetection(with_field(two_images, "categories", "name", name), "val")
    assert dataset.class_names[0] == name
    assert name in coco_ap(dataset.coco, [], [5])["per_class"]


@pytest.mark.parametrize(
    "name", ["deep/er/5.png", "a/../5.png", "./5.png", "caf\u00e9 \U0001f697.png", "..png", "\udcff.png"]
)
def test_a_file_name_may_lead_anywhere_inside_the_folder(two_images, name):
    dataset = CocoDetection(with_field(two_images, "images", "file_name", name), "val")
    (two_images / "val2017" / name).parent.mkdir(parents=True, exist_ok=True)
    (two_images / "val2017" / "a").mkdir(exist_ok=True)
    (two_images / "val2017" / "5.png").rename(two_images / "val2017" / name)
    assert dataset[1][0].shape == (3, 20, 30)
