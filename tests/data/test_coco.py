import hashlib
import json
import pickle
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from greedyprune import UserError
from greedyprune.data import IMAGENET_MEAN, IMAGENET_STD, CocoDetection, ImageError, collate, make_loader


def test_an_item_is_a_normalised_image_and_its_boxes_without_crowds(two_images):
    image, target = CocoDetection(two_images, "val")[1]
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    expected = ((40 / 255 - mean) / std)[:, None, None].expand(3, 20, 30)
    torch.testing.assert_close(image, expected)
    assert type(image) is type(target["boxes"]) is torch.Tensor
    assert target["image_id"] == 5
    assert target["size"].tolist() == [20, 30]
    assert target["labels"].tolist() == [1, 0]
    # The second box is cut at the right and at the top of the image.
    corners = torch.tensor([[3.0, 4.0, 13.0, 12.0], [20.0, 0.0, 30.0, 10.0]]) / torch.tensor([30.0, 20, 30, 20])
    centres, sizes = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    torch.testing.assert_close(target["boxes"], torch.cat((centres, sizes), 1))


def test_an_image_without_annotations_has_empty_targets(two_images):
    _, target = CocoDetection(two_images, "val")[0]
    assert target["image_id"] == 2
    assert (target["labels"].shape, target["labels"].dtype) == ((0,), torch.int64)
    assert (target["boxes"].shape, target["boxes"].dtype) == ((0, 4), torch.float32)


@pytest.mark.parametrize("box", [[5, 5, 0, 4], [5, 5, 4, 0], [16, 3, 9, 9], [-9, 3, 9, 9]])
def test_boxes_without_area_inside_the_image_are_left_out(tmp_path, tiny, box):
    good = {"image_id": 1, "category_id": 3, "bbox": [2, 2, 4, 4]}
    bad = {"image_id": 1, "category_id": 9, "bbox": box}
    dataset = CocoDetection(tiny(tmp_path / "set", {1: np.zeros((16, 16, 3), np.uint8)}, [bad, good]), "val")
    assert dataset[0][1]["labels"].tolist() == [0]
    assert dataset[0][1]["boxes"].tolist() == [[0.25, 0.25, 0.25, 0.25]]


def test_labels_are_places_in_the_sorted_category_ids(shapes):
    dataset = CocoDetection(shapes, "val")
    assert dataset.category_ids == (1, 2, 4, 7, 8, 11, 15, 16)
    for index in range(20):
        _, target = dataset[index]
        annotations = dataset.coco.imgToAnns[target["image_id"]]
        expected = [annotation["category_id"] for annotation in annotations if not annotation["iscrowd"]]
        assert [dataset.category_ids[label] for label in target["labels"]] == expected
    assert dataset.class_names[2] == dataset.coco.cats[4]["name"]


def test_labels_are_places_in_given_category_ids(two_images):
    dataset = CocoDetection(two_images, "val", category_ids=(9, 4, 3))
    assert dataset[1][1]["labels"].tolist() == [0, 2]
    assert dataset.class_names == ("dog", "4", "cat")


def test_a_label_may_have_no_category(two_images):
    every, some = (CocoDetection(two_images, "val", category_ids=ids) for ids in ((9, 4, 3), (None, 9, 4, None, 3)))
    for one, other in zip(every, some, strict=True):
        assert [{0: 1, 1: 2, 2: 4}[label] for label in one[1]["labels"].tolist()] == other[1]["labels"].tolist()


def test_an_annotated_category_that_is_not_asked_for_is_a_users_error(two_images):
    with pytest.raises(UserError, match=r"annotation 2 is of category 3 \(cat\), which is none of the 2"):
        CocoDetection(two_images, "val", category_ids=(9, 4))


def test_images_are_in_the_order_of_their_ids_and_can_be_chosen(two_images):
    assert CocoDetection(two_images, "val").image_ids == [2, 5]
    chosen = CocoDetection(two_images, "val", image_ids=[5])
    assert len(chosen) == 1
    assert chosen[0][1]["image_id"] == chosen[-1][1]["image_id"] == 5
    with pytest.raises(IndexError):
        chosen[1]
    with pytest.raises(UserError, match="does not list image 7"):
        CocoDetection(two_images, "val", image_ids=[5, 7])


def test_the_fingerprint_is_the_files_sha256(two_images):
    content = (two_images / "annotations" / "instances_val2017.json").read_bytes()
    assert CocoDetection(two_images, "val").fingerprint == hashlib.sha256(content).hexdigest()


def test_cached_images_survive_the_loss_of_their_files(two_images):
    dataset = CocoDetection(two_images, "val", cache_images=True)
    before = dataset[1][0]
    (two_images / "val2017" / "5.png").unlink()
    assert torch.equal(dataset[1][0], before)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("P", "png"), ("RGBA", "png"), ("CMYK", "jpg"), ("1", "png"), ("LA", "png")]
)
def test_images_of_other_modes_become_rgb(two_images, mode, suffix):
    path = two_images / "annotations" / "instances_val2017.json"
    data = json.loads(path.read_text())
    data["images"][0]["file_name"] = f"other.{suffix}"
    path.write_text(json.dumps(data))
    Image.new("RGB", (30, 20), "white").convert(mode).save(two_images / "val2017" / f"other.{suffix}")
    image, _ = CocoDetection(two_images, "val")[1]
    torch.testing.assert_close(image[:, 0, 0], (1 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD))


def breakage(name):
    """Ways in which an image can be unusable, as functions of its path, with what is said about them."""

    def cut(path):
        # Noise, so that the file is longer than a decoder's buffer.
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:900])

    def garble(path):
        content = bytearray(path.read_bytes())
        content[16:60] = bytes(44)
        path.write_bytes(content)

    return {
        "missing": (lambda path: path.unlink(), "there is no such file"),
        "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
        "text": (lambda path: path.write_text("<html>404</html>"), "cannot be read"),
        "cut off": (cut, "cannot be read"),
        "garbled": (garble, "cannot be read"),
        "a folder": (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
        "of another size": (
            lambda path: Image.new("RGB", (20, 30)).save(path),
            "is 20 x 30 pixels, but 30 x 20 in the annotations",
        ),
    }[name]


@pytest.mark.parametrize("name", ["missing", "empty", "text", "cut off", "garbled", "a folder", "of another size"])
def test_an_image_that_cannot_be_used_is_named(two_images, name):
    path = two_images / "val2017" / "5.png"
    harm, expected = breakage(name)
    harm(path)
    with pytest.raises(UserError) as error:
        CocoDetection(two_images, "val")[1]
    message = str(error.value)
    assert message.startswith(f"image 5 ({path}) ")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["missing", "cut off"])
def test_a_worker_process_says_the_same_one_line(two_images, name):
    breakage(name)[0](two_images / "val2017" / "5.png")
    dataset = CocoDetection(two_images, "val")
    with pytest.raises(ImageError) as here:
        dataset[1]
    for loader in (
        make_loader(dataset, 2, num_workers=1),
        DataLoader(Subset(dataset, [0, 1]), 1, num_workers=2, collate_fn=collate),
    ):
        with pytest.raises(UserError) as there:
            list(loader)
        assert str(there.value) == str(here.value)


@pytest.fixture
def turned(tmp_path, tiny):
    """Three images of noise that their EXIF orientations turn: as the size tells (1), and as it does not (2 and 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), np.uint8)
    shown = {1: noise[0].transpose(1, 0, 2), 2: noise[1], 3: noise[2]}
    folder = tiny(tmp_path / "turned", shown, [])
    for image, orientation in ((1, 6), (2, 3), (3, 2)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(noise[image - 1]).save(folder / "val2017" / f"{image}.png", exif=exif)
    return folder, {1: np.rot90(noise[0], -1), 2: noise[1, ::-1, ::-1], 3: noise[2, :, ::-1]}


def test_images_are_turned_as_their_exif_orientation_says(turned):
    folder, expected = turned
    dataset = CocoDetection(folder, "val")
    with pytest.warns(UserWarning, match="EXIF"):
        seen = {image: dataset.pixels(image).permute(1, 2, 0).numpy() for image in expected}
    assert all(np.array_equal(seen[image], expected[image]) for image in expected)


def test_a_guess_at_an_orientation_is_told_once_for_a_data_set(turned, recwarn):
    folder, _ = turned
    for dataset in (CocoDetection(folder, "val"), CocoDetection(folder, "val", image_ids=[2, 3])):
        for index in range(len(dataset)):
            dataset[index]
    (warning,) = recwarn.list
    message = str(warning.message)
    assert message.startswith(f"image 2 ({folder / 'val2017' / '2.png'}) has an EXIF orientation")
    assert "so have 2 of the first 3 images; all such are taken upright" in message
    assert "\n" not in message


def test_workers_tell_a_guess_once_for_all_of_them(turned, capfd, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_, **__: print(message, file=sys.stderr))
    dataset = CocoDetection(turned[0], "val", image_ids=[3])
    for _ in range(2):
        list(DataLoader(dataset, 1, num_workers=1, collate_fn=collate))
    assert capfd.readouterr().err.count("has an EXIF orientation") == 1


def test_images_whose_size_tells_the_orientation_need_no_word(turned, recwarn):
    dataset = CocoDetection(turned[0], "val", image_ids=[1])
    assert dataset[0][0].shape == (3, 24, 16)
    assert not recwarn.list


def test_a_data_set_can_be_sent_to_a_process_that_is_not_forked(two_images):
    dataset = CocoDetection(two_images, "val")
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[1][0], dataset[1][0])
