import numpy as np
import pytest
import torch
from PIL import Image

from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.draw import beside, draw_detections

NAMES = {1: "circle", 2: "square"}


def found(*rows):
    return Detections.from_rows(
        {"image_id": 1, "category_id": category, "bbox": box, "score": score} for category, box, score in rows
    )


def colours(picture):
    return {colour for _, colour in picture.getcolors(picture.width * picture.height)}


def test_small_images_are_enlarged_so_that_names_can_be_read():
    assert draw_detections(Image.new("RGB", (160, 120)), found(), NAMES).size == (640, 480)
    assert draw_detections(Image.new("RGB", (800, 600)), found(), NAMES).size == (800, 600)


def test_a_box_lies_where_the_detection_says_in_the_colour_of_its_class():
    picture = draw_detections(Image.new("RGB", (480, 480), "gray"), found((1, [100, 200, 80, 40], 0.9)), NAMES)
    colour = picture.getpixel((100, 220))
    assert colour == picture.getpixel((180, 220)) == picture.getpixel((140, 240)) != (128, 128, 128)
    assert picture.getpixel((140, 220)) == (128, 128, 128)
    other = draw_detections(Image.new("RGB", (480, 480), "gray"), found((2, [100, 200, 80, 40], 0.9)), NAMES)
    assert other.getpixel((100, 220)) not in {colour, (128, 128, 128)}


def test_what_scores_less_than_the_limit_is_not_drawn():
    blank = Image.new("RGB", (480, 480), "gray")
    assert colours(draw_detections(blank, found((1, [10, 10, 50, 50], 0.2)), NAMES, min_score=0.3)) == {(128, 128, 128)}


def test_boxes_that_reach_over_the_edge_or_have_no_area_can_be_drawn():
    boxes = found((1, [-20, -20, 900, 900], 0.9), (2, [470, 470, 40, 40], 0.8), (9, [50, 50, 0, 0], 0.7))
    assert len(colours(draw_detections(Image.new("RGB", (480, 480)), boxes, NAMES))) > 3


@pytest.mark.parametrize("image", [torch.full((3, 480, 480), 0.5), torch.full((3, 480, 480), 128, dtype=torch.uint8)])
def test_tensors_are_pictures_too(image):
    assert colours(draw_detections(image, found(), NAMES)) == {(128, 128, 128)}


def test_an_image_of_another_shape_is_refused_with_its_shape():
    with pytest.raises(ValueError, match=r"shape \[1, 5, 5\]"):
        draw_detections(torch.zeros(1, 5, 5), found(), NAMES)


def test_the_picture_that_was_given_is_not_drawn_on():
    image = Image.new("RGB", (480, 480))
    draw_detections(image, found((1, [10, 10, 50, 50], 0.9)), NAMES)
    assert not np.asarray(image).any()


def test_names_do_not_hide_each_other_where_there_is_room():
    boxes = found((1, [200, 200, 60, 60], 0.9), (2, [202, 202, 60, 60], 0.8))
    both = np.asarray(draw_detections(Image.new("RGB", (480, 480), "gray"), boxes, NAMES)).reshape(-1, 3)
    areas = []
    for index in range(2):
        alone = np.asarray(draw_detections(Image.new("RGB", (480, 480), "gray"), boxes[index : index + 1], NAMES))
        colour = alone[230, 200 + 2 * index]  # on the left edge of the box
        areas.append(((both == colour).all(1).sum(), (alone.reshape(-1, 3) == colour).all(1).sum()))
    assert all(shown > 0.8 * whole for shown, whole in areas)


def test_two_pictures_lie_side_by_side():
    pair = beside(Image.new("RGB", (30, 20), "red"), Image.new("RGB", (40, 50), "blue"), gap=5)
    assert pair.size == (75, 50)
    assert pair.getpixel((0, 0)) == (255, 0, 0)
    assert pair.getpixel((35, 49)) == (0, 0, 255)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "car [front]",
        "[/red]",
        "a\nb\tc\r\0d\x1b[31m",
        "\u05e9\u05dc\u05d5\u05dd",
        "\u202eevil",
        "\U0001f697\u200d",
        "\ud800",
        "x" * 100_000,
        "\u0e33" * 300,
    ],
)
@pytest.mark.parametrize("size", [(480, 480), (20, 3)])
def test_names_of_any_text_take_one_line_inside_the_picture(name, size):
    box = found((1, [1, 1, 2, 1], 0.9))
    plain, named = (
        np.asarray(draw_detections(Image.new("RGB", size), box, {1: text}, captions=[""])) for text in ("car", name)
    )
    rows = [np.flatnonzero(picture.any((1, 2))) for picture in (plain, named)]
    assert abs(len(rows[0]) - len(rows[1])) <= 10  # letters that reach below the line, or above it
    assert named.shape == plain.shape


def test_a_long_name_leaves_room_for_its_score():
    box = found((1, [0, 300, 400, 100], 0.87))
    short, long = (
        np.asarray(draw_detections(Image.new("RGB", (480, 480)), box, {1: name})) for name in ("", "x" * 1000)
    )
    assert short.any()
    assert not np.array_equal(short, long)
    assert long[:290, 470:].any()  # the caption ends at the right edge, and does not leave it


@pytest.mark.parametrize("size", [(20000, 1), (1, 20000), (9000, 20)])
def test_a_picture_of_a_very_long_image_keeps_to_a_bound(size):
    picture = draw_detections(Image.new("RGB", size), found((1, [0, 0, 9000, 9000], 0.9)), NAMES)
    assert max(picture.size) == max(*size, 4800)
