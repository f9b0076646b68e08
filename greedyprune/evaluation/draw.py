"""Pictures of detections: boxes, names and scores that can be read on small images, too."""

import colorsys
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from greedyprune.data.coco import CocoDetection
from greedyprune.evaluation.detections import Detections
from greedyprune.files import naming

SHORTEST_SIDE = 480  # smaller images are enlarged to it, so that names can be read
_LONGEST_SIDE = 4800  # as far as the other side does not become longer than this
_LONGEST_STEM = 200  # bytes of an image's name that its picture's gets; file systems take 255 with all that follows
_Rect = tuple[float, float, float, float]


def draw_detections(
    image: Image.Image | Tensor,
    detections: Detections,
    class_names: Mapping[int, str],
    *,
    min_score: float = 0.0,
    captions: Sequence[str] | None = None,
    title: str | None = None,
) -> Image.Image:
    """Draw boxes with their class's name, score and colour.

    Args:
        image: a picture, or a tensor `[3, h, w]`, uint8 or float in 0..1.
        detections: of this image, in its pixels.
        class_names: category id -> name; all of the data set's, so that a class has the same colour on every image.
            Any text; it becomes one line, cut to the picture's width.
        min_score: detections below it are left out.
        captions: what to write behind each name; None: the score.
        title: a line above the picture.

    Returns:
        An RGB picture, enlarged where the shorter side has fewer than 480 pixels and the longer one fewer than 4800.
    """
    picture = (_from_tensor(image) if isinstance(image, Tensor) else image).convert("RGB")
    zoom = max(1.0, min(SHORTEST_SIDE / min(picture.size), _LONGEST_SIDE / max(picture.size)))
    if zoom > 1:
        picture = picture.resize((round(picture.width * zoom), round(picture.height * zoom)), Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(picture)
    line = max(2, round(min(picture.size) / 240))
    font = ImageFont.load_default(size=max(13, min(picture.size) / 34))
    colours = _colours(class_names)
    shown = np.flatnonzero(detections.scores >= min_score).tolist()
    kept = detections[shown]
    notes = [f"{score:.2f}" for score in kept.scores] if captions is None else [captions[i] for i in shown]
    order = np.argsort(kept.scores, kind="stable")  # the best is drawn last, on top
    boxes = [_corners(kept.boxes[i] * zoom, picture.size) for i in order]
    for i, box in zip(order, boxes, strict=True):
        colour = colours.get(int(kept.category_ids[i]), (255, 255, 255))
        canvas.rectangle(_grown(box, 1), outline=(0, 0, 0), width=line + 2)
        canvas.rectangle(box, outline=colour, width=line)
    written: list[_Rect] = []
    for i, box in reversed(list(zip(order, boxes, strict=True))):
        category = int(kept.category_ids[i])
        text = _caption(str(class_names.get(category, category)), notes[i], font, picture.width)
        colour = colours.get(category, (255, 255, 255))
        written.append(_write(canvas, text, box, colour, font, picture.size, written))
    return picture if title is None else _titled(picture, title, font)


def draw_pairs(
    dataset: CocoDetection,
    detections: Detections,
    image_ids: Sequence[int],
    folder: str | Path,
    *,
    min_score: float = 0.3,
) -> list[Path]:
    """Write one PNG for each image: the ground truth on the left, the detections on the right.

    Args:
        dataset: where the images and their annotations are.
        detections: of any images.
        image_ids: the images to draw.
        folder: made if it is not there; files are named by image file and id.
        min_score: detections below it are left out.

    Returns:
        The files written.

    Raises:
        ImageError: an image cannot be read.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = {category["id"]: category["name"] for category in dataset.coco.cats.values()}
    written = []
    for image_id in image_ids:
        image = dataset.pixels(image_id)
        annotations = dataset.coco.imgToAnns.get(image_id, ())
        truth, crowds = Detections.from_rows(annotations), ["crowd" if a.get("iscrowd") else "" for a in annotations]
        found = detections[detections.image_ids == image_id]
        pair = beside(
            draw_detections(image, truth, names, captions=crowds, title="ground truth"),
            draw_detections(image, found, names, min_score=min_score, title=f"detections, scores from {min_score:.2f}"),
        )
        stem = os.fsdecode(os.fsencode(dataset.image_path(image_id).stem)[:_LONGEST_STEM])
        target = folder / f"{stem}_{image_id}.png"
        with naming(target):
            pair.save(target)
        written.append(target)
    return written


def beside(left: Image.Image, right: Image.Image, gap: int = 8) -> Image.Image:
    """Two pictures in one, on white."""
    both = Image.new("RGB", (left.width + gap + right.width, max(left.height, right.height)), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + gap, 0))
    return both


def _from_tensor(image: Tensor) -> Image.Image:
    if image.dim() != 3 or image.shape[0] != 3:
        raise ValueError(f"image has shape {list(image.shape)}, expected [3, h, w]")
    if image.is_floating_point():
        image = (image.clamp(0, 1) * 255).round()
    return Image.fromarray(image.to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy())  # [h, w, 3]


def _colours(class_names: Mapping[int, str]) -> dict[int, tuple[int, int, int]]:
    """A colour for each class: hues evenly apart, or in steps of the golden ratio where there are many classes."""
    colours = {}
    for index, category in enumerate(sorted(class_names)):
        hue = index / len(class_names) if len(class_names) <= 12 else index * 0.61803399 % 1
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.65 + 0.35 * (index % 2), 1.0)
        colours[category] = (round(red * 255), round(green * 255), round(blue * 255))
    return colours


def _corners(box: np.ndarray, size: tuple[int, int]) -> _Rect:
    """xywh to corners inside the picture."""
    x0, y0 = (min(max(float(low), 0.0), limit - 1.0) for low, limit in zip(box[:2], size, strict=True))
    x1, y1 = (min(max(float(high), 0.0), limit - 1.0) for high, limit in zip(box[:2] + box[2:], size, strict=True))
    return x0, y0, max(x0, x1), max(y0, y1)


def _grown(box: _Rect, by: float) -> _Rect:
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by


def _caption(name: str, note: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """A class's name and what is said behind it, in one line no wider than the picture where the note leaves room."""
    shown = " ".join("".join(letter if letter.isprintable() else " " for letter in name[:width]).split())
    fits = len(shown)
    while fits and font.getlength(f"{shown[:fits]} {note}") > width - 6:
        fits = max(0, fits - 1 - fits // 20)
    return f"{shown[:fits]} {note}".strip()


def _write(
    canvas: ImageDraw.ImageDraw,
    text: str,
    box: _Rect,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
    taken: Sequence[_Rect],
) -> _Rect:
    """Write a box's name where it hides no other name, if there is such a place, and return the place."""
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 6
    corners = [
        (box[0], box[1] - height),
        (box[0], box[3]),
        (box[2] - width, box[1] - height),
        (box[2] - width, box[3]),
        (box[0], box[1]),
        (box[0], box[3] - height),
        (box[2], box[1]),
        (box[0] - width, box[1]),
    ]
    places = []
    for x, y in corners:
        x, y = min(max(x, 0.0), size[0] - width), min(max(y, 0.0), size[1] - height)
        places.append((x, y, x + width, y + height))
    place = min(places, key=lambda rect: sum(_overlap(rect, other) for other in taken))
    canvas.rectangle(place, fill=colour)
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 120
    canvas.text((place[0] + 3 - left, place[1] + 3 - top), text, fill="black" if dark else "white", font=font)
    return place


def _overlap(a: _Rect, b: _Rect) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _titled(picture: Image.Image, title: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    height = round(font.getbbox("Ag")[3]) + 10
    titled = Image.new("RGB", (picture.width, picture.height + height), "white")
    titled.paste(picture, (0, height))
    ImageDraw.Draw(titled).text((2, 5), title, fill="black", font=font)
    return titled
