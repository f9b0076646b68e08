import random

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from greedyprune import UserError
from greedyprune.data import denormalise, eval_transform, train_transform
from greedyprune.data.transforms import RandomSizeCrop, Resize, resized

# x0, y0, x1, y1 and grey level of rectangles that do not touch
RECTANGLES = [(6, 10, 30, 22, 255), (50, 4, 58, 60, 200), (10, 40, 40, 72, 150), (70, 66, 96, 78, 100)]


def scene(height=80, width=100, rectangles=RECTANGLES):
    """Grey rectangles on black; their grey levels are their labels."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for x0, y0, x1, y1, grey in rectangles:
        image[:, y0:y1, x0:x1] = grey
    corners = torch.tensor([rectangle[:4] for rectangle in rectangles], dtype=torch.float32)
    boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(height, width))
    return tv_tensors.Image(image), {"labels": torch.tensor([r[4] for r in rectangles]), "boxes": boxes, "image_id": 3}


def coloured_scene():
    """A red, a green and a blue rectangle on black, labelled 0, 1 and 2."""
    image, target = scene(rectangles=RECTANGLES[:3])
    for label, (x0, y0, x1, y1, _) in enumerate(RECTANGLES[:3]):
        image[:, y0:y1, x0:x1] = 0
        image[label, y0:y1, x0:x1] = 255
    return image, {**target, "labels": torch.arange(3)}


def around(where):
    """Tight box of the pixels that are True."""
    rows, columns = where.any(1).nonzero(), where.any(0).nonzero()
    return [int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def pixel_boxes(image, target):
    """A transformed target's boxes as xyxy in pixels."""
    height, width = image.shape[-2:]
    centre, size = target["boxes"][:, :2], target["boxes"][:, 2:]
    return torch.cat((centre - size / 2, centre + size / 2), 1) * torch.tensor([width, height, width, height])


def seen_boxes(pixels):
    """Tight boxes of the pixels `[3, h, w]` of each rectangle, by grey level, where there are any."""
    greys = [grey for *_, grey in RECTANGLES if (pixels[0] == grey).any()]
    return {grey: around(pixels[0] == grey) for grey in greys}


def test_flips_move_boxes_with_their_pixels_in_all_eight_ways():
    transform = train_transform("flips", 80, 100)
    ways = set()
    for seed in range(60):
        torch.manual_seed(seed)
        image, target = transform(*scene())
        found = seen_boxes(denormalise(image))
        boxes = pixel_boxes(image, target).round().int().tolist()
        assert dict(zip(target["labels"].tolist(), boxes, strict=True)) == found
        ways.add((tuple(image.shape[-2:]), tuple(found[255])))
    assert len(ways) == 8
    assert {way[0] for way in ways} == {(80, 100), (100, 80)}


def test_flips_shuffle_the_colour_channels():
    image, target = scene()
    image = tv_tensors.Image(torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None].expand(3, 80, 100))
    transform = train_transform("flips", 80, 100)
    seen = {tuple(denormalise(transform(image, target)[0])[:, 0, 0].tolist()) for _ in range(100)}
    assert len(seen) == 6


@pytest.mark.parametrize("short_side", [160, 800])
def test_detr_augmentation_keeps_boxes_on_their_pixels(short_side):
    scale = short_side / 800
    transform = train_transform("detr", short_side, round(1333 * scale))
    shapes, cropped, flipped = set(), 0, 0
    for seed in range(40 if short_side == 160 else 8):
        torch.manual_seed(seed)
        image, target = transform(*coloured_scene())
        # Half of the intensity is where a resampled edge is.
        bright = denormalise(image) > 127
        boxes = dict(zip(target["labels"].tolist(), pixel_boxes(image, target).tolist(), strict=True))
        for channel in range(3):
            if bright[channel].any():
                assert boxes[channel] == pytest.approx(around(bright[channel]), abs=1.5 + 2 * scale)
            elif channel in boxes:
                x0, y0, x1, y1 = boxes[channel]
                assert 0 < min(x1 - x0, y1 - y0) < 2 + 4 * scale
        shapes.add(min(image.shape[-2:]))
        cropped += len(boxes) < 3
        flipped += 0 in boxes and 1 in boxes and boxes[0][0] > boxes[1][0]
    assert shapes <= {round(side * scale) for side in range(480, 801, 32)}
    if short_side == 160:
        assert len(shapes) > 5
        assert 0 < cropped < 25
        assert 8 < flipped < 32


def test_crops_cut_boxes_and_drop_those_of_which_nothing_is_left():
    crop = RandomSizeCrop(20, 50)
    kept = set()
    for seed in range(50):
        torch.manual_seed(seed)
        image, target = crop(*scene())
        height, width = image.shape[-2:]
        assert 20 <= height <= 50
        assert 20 <= width <= 50
        found = seen_boxes(image)
        assert dict(zip(target["labels"].tolist(), target["boxes"].tolist(), strict=True)) == found
        kept.add(len(found))
    assert {0, 1} < kept


def test_a_crop_of_a_smaller_image_keeps_its_sides():
    image, target = RandomSizeCrop(384, 600)(*scene())
    assert image.shape == (3, 80, 100)
    assert len(target["boxes"]) == len(RECTANGLES)


def published_size(height, width, size, max_size):
    """The rule as DETR's code writes it, in floating point, but for what its rounding adds to `max_size`."""
    low, high = float(min(height, width)), float(max(height, width))
    if high / low * size > max_size:
        size = round(max_size * low / high)
    if width < height:
        return min(int(size * height / width), max_size), size
    return size, min(int(size * width / height), max_size)


def test_images_are_resized_to_detrs_sizes():
    assert resized(480, 640, 800, 1333) == (800, 1066)
    assert resized(160, 128, 160, 160) == (160, 128)
    assert resized(20, 10, 40, None) == (80, 40)
    rng = np.random.default_rng(0)
    for height, width in rng.integers(50, 1500, (300, 2)).tolist():
        assert resized(height, width, 800, 1333) == published_size(height, width, 800, 1333)


@pytest.mark.parametrize("short", [1, 2, 7, 700])
@pytest.mark.parametrize("long", [1333, 1334, 9000, 20000, 10**6])
def test_an_extremely_long_image_keeps_a_pixel_and_ends_at_the_longest_side(short, long):
    for height, width in ((short, long), (long, short)):
        sides = resized(height, width, 800, 1333)
        assert min(sides) >= 1
        assert max(sides) <= 1333


@pytest.mark.parametrize("kind", ["detr", "flips", "none"])
@pytest.mark.parametrize(("height", "width"), [(1, 20000), (20000, 1), (9000, 7)])
def test_an_extremely_long_image_can_be_trained_on(kind, height, width):
    image = tv_tensors.Image(torch.full((3, height, width), 77, dtype=torch.uint8))
    corners = torch.tensor([[0.0, 0, width, height]])
    boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(height, width))
    for seed in range(6):
        torch.manual_seed(seed)
        out, target = train_transform(kind, 80, 130)(image, {"labels": torch.tensor([1]), "boxes": boxes})
        assert max(out.shape[-2:]) <= 130
        assert (denormalise(out) == 77).all()
        assert target["boxes"].tolist() == [[0.5, 0.5, 1, 1]]


def test_the_evaluation_transform_resizes_and_changes_nothing_at_random():
    transform = eval_transform(160, 400)
    (first, target), (second, _) = transform(*scene()), transform(*scene())
    assert torch.equal(first, second)
    assert first.shape == (3, 160, 200)
    torch.testing.assert_close(pixel_boxes(first, target)[0], torch.tensor([12.0, 20, 60, 44]))
    assert target["image_id"] == 3


def test_an_image_of_the_right_size_is_not_resampled():
    image, target = scene()
    assert Resize((80,), 100)(image, target)[0] is image


def test_denormalise_gives_the_pixels_back():
    image = torch.randint(0, 256, (3, 16, 24), dtype=torch.uint8)
    _, target = scene()
    assert torch.equal(denormalise(eval_transform(16, 24)(tv_tensors.Image(image), target)[0]), image)


@pytest.mark.parametrize("kind", ["detr", "flips"])
def test_augmentation_is_a_function_of_pytorchs_seed_alone(kind):
    transform = train_transform(kind, 80, 130)
    results = []
    for other in (1, 2):
        random.seed(other)
        np.random.seed(other)  # noqa: NPY002
        states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        torch.manual_seed(5)
        results.append([transform(*scene()) for _ in range(6)])
        assert states == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    for (one, one_target), (two, two_target) in zip(*results, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one_target["boxes"], two_target["boxes"])


def test_images_without_boxes_go_through():
    image, _ = scene()
    for kind in ("detr", "flips", "none"):
        boxes = tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=(80, 100))
        for _ in range(6):
            _, target = train_transform(kind, 80, 130)(image, {"labels": torch.zeros(0).long(), "boxes": boxes})
            assert target["boxes"].shape == (0, 4)
            assert target["labels"].shape == (0,)


def test_an_unknown_augmentation_is_a_users_error():
    with pytest.raises(UserError, match="'mosaic' is unknown; choose one of detr, darknet, flips, none"):
        train_transform("mosaic", 800, 1333)
