"""Images come in the form that a detector wants, and Darknet's augmentations move boxes with their pixels."""

import pytest
import torch

from greedyprune.data.transforms import Distort, Jitter, Stretch, eval_transform, form_transform
from greedyprune.image_form import ImageForm, Sides, Stretched

from .test_transforms import RECTANGLES, pixel_boxes, scene, seen_boxes

FORM = ImageForm.unnormalised(Stretched(160, 100))


def test_a_stretched_image_has_its_size_whatever_its_aspect_and_colours_in_0_to_1():
    image, target = form_transform(FORM)(*scene())
    assert image.shape == (3, 160, 100)
    assert (float(image.min()), float(image.max())) == (0, 1)
    wanted = torch.tensor([[x0, 2 * y0, x1, 2 * y1] for x0, y0, x1, y1, _ in RECTANGLES], dtype=torch.float32)
    torch.testing.assert_close(pixel_boxes(image, target), wanted)


def test_sides_are_what_detrs_have_always_had():
    (one, _), (other, _) = (
        made(*scene()) for made in (form_transform(ImageForm(Sides(40, 60))), eval_transform(40, 60))
    )
    assert torch.equal(one, other)
    assert one.shape == (3, 40, 50)


@pytest.mark.parametrize("kind", ["detr", "darknet", "flips", "none"])
def test_every_augmentation_ends_at_the_size_that_is_wanted(kind):
    transform = form_transform(FORM, kind)
    for seed in range(8):
        torch.manual_seed(seed)
        image, target = transform(*scene())
        assert image.shape == (3, 160, 100)
        assert bool((target["boxes"] >= 0).all())
        assert len(target["boxes"]) == len(target["labels"])


def test_moved_edges_move_boxes_with_their_pixels_and_leave_black_outside():
    sizes = set()
    for seed in range(30):
        torch.manual_seed(seed)
        image, target = Jitter()(*scene())
        sizes.add(tuple(image.shape[-2:]))
        found = seen_boxes(image)
        boxes = {int(grey): box for grey, box in zip(target["labels"], target["boxes"].tolist(), strict=True)}
        assert boxes == found
    heights, widths = zip(*sizes, strict=True)
    assert min(heights) < 80 < max(heights)
    assert min(widths) < 100 < max(widths)


def test_colours_change_and_boxes_do_not():
    torch.manual_seed(0)
    image, target = scene()
    image[0] //= 2
    changed, same = Distort()(image, target)
    assert same is target
    assert changed.shape == image.shape
    assert not torch.equal(changed, image)
    still, _ = Distort(hue=0, factor=1)(image, target)
    assert int((still.int() - image.int()).abs().max()) <= 1


def test_what_has_its_size_already_is_left_alone():
    image, target = scene()
    same, boxes = Stretch(80, 100)(image, target)
    assert same is image
    assert boxes is target
