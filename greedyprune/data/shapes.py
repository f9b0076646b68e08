"""The embedded data set `shapes`: one synthetic scene, drawn from a seed."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

VERSION = 2  # to be raised when the same seed gives other pixels or annotations: it is part of the cache's name

# Category ids have gaps, as COCO's own have.
CATEGORIES = {
    1: "circle",
    2: "square",
    4: "triangle",
    7: "star",
    8: "cross",
    11: "ring",
    15: "crescent",
    16: "hexagon",
}
SIZES = ((160, 160), (128, 160), (160, 128))  # height, width
_SUPERSAMPLING = 4
_FREE, _CROWD = -1, -2  # owners of pixels where no single object is seen
_VISIBLE = 0.6  # an object of which less than this share can be seen is not drawn
_CONTRAST = 85.0  # smallest RGB distance between an object's main colour and what lies behind it


@dataclass(frozen=True)
class Instance:
    """One annotated object, or a crowd.

    Attributes:
        category: category id.
        mask: `[h, w]` bool, the visible pixels.
        crowd: several objects annotated as one.
    """

    category: int
    mask: np.ndarray
    crowd: bool


def draw_scene(rng: Generator) -> tuple[Image.Image, list[Instance]]:
    """An image of one of `SIZES` and its objects; a function of the generator's state alone."""
    height, width = SIZES[rng.integers(len(SIZES))]
    canvas = _background(rng, height, width)
    kind = rng.random()
    owner = np.full((height, width), _FREE)  # which object is seen at a pixel
    categories: list[int] = []
    crowd = _crowd(rng, canvas, owner) if kind > 0.97 else None
    if kind >= 0.03:
        _scatter(rng, canvas, owner, categories)
    instances = [Instance(c, owner == i, False) for i, c in enumerate(categories)]
    if crowd is not None:
        instances.append(crowd)
    return _camera(rng, canvas), instances


def _scatter(rng: Generator, canvas: np.ndarray, owner: np.ndarray, categories: list[int]) -> None:
    """Single objects, larger ones rather behind smaller ones, none hidden too far."""
    whole: list[float] = []
    for diameter in _diameters(rng):
        for _ in range(12):
            category = int(rng.choice(list(CATEGORIES)))
            alpha, top, left = _place(rng, category, diameter, owner.shape)
            inside, visible = _clip(alpha, top, left, owner.shape)
            area = float((alpha > 0.5).sum())
            if inside is None or visible is None or (visible > 0.5).sum() < max(_VISIBLE * area, 20):
                continue
            patch = owner[inside]
            if (patch[visible > 0.5] == _CROWD).any():
                continue
            covered = np.bincount(patch[(visible > 0.5) & (patch >= 0)], minlength=len(categories))
            left_over = np.array([(owner == i).sum() for i in range(len(categories))]) - covered
            if any(seen < max(_VISIBLE * size, 20) for seen, size in zip(left_over, whole, strict=True)):
                continue
            _paint(rng, canvas[inside], visible)
            patch[visible > 0.5] = len(categories)
            categories.append(category)
            whole.append(area)
            break


def _crowd(rng: Generator, canvas: np.ndarray, owner: np.ndarray) -> Instance | None:
    """Many small objects of one class, close together; for a scene that is still empty."""
    height, width = owner.shape
    category = int(rng.choice(list(CATEGORIES)))
    side, wanted = int(rng.integers(72, 100)), int(rng.integers(10, 19))
    top, left = int(rng.integers(0, height - side)), int(rng.integers(0, width - side))
    mask = np.zeros(owner.shape, dtype=bool)
    members = []
    for _ in range(150):
        alpha = _outline(rng, category, rng.uniform(10, 16))
        y = top + int(rng.integers(0, side - alpha.shape[0]))
        x = left + int(rng.integers(0, side - alpha.shape[1]))
        inside = slice(y, y + alpha.shape[0]), slice(x, x + alpha.shape[1])
        if mask[inside].any():
            continue
        mask[inside] |= alpha > 0.5
        members.append((inside, alpha))
        if len(members) == wanted:
            break
    if len(members) < 8:
        return None
    for inside, alpha in members:
        _paint(rng, canvas[inside], alpha)
    owner[mask] = _CROWD
    return Instance(category, mask, True)


def _diameters(rng: Generator) -> list[float]:
    """Sizes of a scene's objects, largest first; small, medium and large ones, in COCO's sense, all are frequent."""
    sizes = [rng.uniform(120, 165)] if rng.random() < 0.6 else []
    for _ in range(min(rng.poisson(3.4), 8) + (not sizes)):
        small = rng.random() < 0.5
        sizes.append(8 + 26 * rng.random() ** 0.8 if small else math.exp(rng.uniform(math.log(36), math.log(100))))
    return sorted(sizes, reverse=True)


def _place(rng: Generator, category: int, diameter: float, size: tuple[int, ...]) -> tuple[np.ndarray, int, int]:
    """An object's alpha mask, and where its top left corner goes; it may stick out of the image a little."""
    alpha = _outline(rng, category, diameter)
    margin = 0.15
    corner = []
    for extent, room in zip(alpha.shape, size, strict=True):
        low, high = -margin * extent, room - (1 - margin) * extent
        low, high = (low, high) if low < high else ((room - extent) / 2, (room - extent) / 2 + 1)
        corner.append(int(rng.uniform(low, high)))
    return alpha, corner[0], corner[1]


def _clip(
    alpha: np.ndarray, top: int, left: int, size: tuple[int, ...]
) -> tuple[tuple[slice, slice], np.ndarray] | tuple[None, None]:
    """The part of a patch that lies in the image: where, and its alpha."""
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + alpha.shape[0], size[0]), min(left + alpha.shape[1], size[1])
    if y1 <= y0 or x1 <= x0:
        return None, None
    return (slice(y0, y1), slice(x0, x1)), alpha[y0 - top : y1 - top, x0 - left : x1 - left]


def _outline(rng: Generator, category: int, diameter: float) -> np.ndarray:
    """Alpha `[h, w]` in 0..1 of a shape at a random angle, cut to its box."""
    angle, aspect = rng.uniform(0, 2 * math.pi), rng.uniform(0.72, 1.0)
    loops = _loops(CATEGORIES[category], rng)
    # Thin shapes are drawn larger, so that a diameter means about the same area for all of them.
    area = abs(_signed_area(loops[0])) - sum(abs(_signed_area(hole)) for hole in loops[1:])
    scale = diameter / 2 * _SUPERSAMPLING * min(math.sqrt(math.pi / area), 1.35)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    outer, *holes = [loop * np.array([1.0, aspect]) @ turn.T * scale for loop in loops]
    low, high = outer.min(0), outer.max(0)
    step = _SUPERSAMPLING
    size = np.ceil((high - low) / step).astype(int) * step + step
    image = Image.new("L", (int(size[0]), int(size[1])))
    brush = ImageDraw.Draw(image)
    brush.polygon([tuple(point) for point in outer - low], fill=255)
    for hole in holes:
        brush.polygon([tuple(point) for point in hole - low], fill=0)
    return np.asarray(image.reduce(step), dtype=np.float32) / 255


def _loops(name: str, rng: Generator) -> list[np.ndarray]:
    """A shape's outline within the unit circle, then its hole if it has one; each `[n, 2]`."""
    if name == "circle":
        return [_ring_points(48)]
    if name == "ring":
        return [_ring_points(48), _ring_points(48) * rng.uniform(0.45, 0.62)]
    if name == "square":
        return [_ring_points(4)]
    if name == "triangle":
        return [_ring_points(3)]
    if name == "hexagon":
        return [_ring_points(6)]
    if name == "star":
        points = _ring_points(10)
        points[1::2] *= rng.uniform(0.38, 0.48)
        return [points]
    if name == "cross":
        arm = rng.uniform(0.24, 0.34)
        quarter = np.array([[1.0, -arm], [1.0, arm], [arm, arm]])
        turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
        return [np.concatenate([quarter @ turn.T for turn in turns])]
    # A crescent: two arcs between the same horns, the inner one flatter.
    horn = rng.uniform(0.9, 1.2)
    outer = np.linspace(horn, 2 * math.pi - horn, 40)
    tip = np.array([math.cos(horn), math.sin(horn)])
    depth = rng.uniform(0.25, 0.5)
    inner = np.linspace(-1, 1, 24)[1:-1]
    bow = np.stack((tip[0] - (tip[0] + 1 - depth) * (1 - inner**2), inner * tip[1]), 1)
    return [np.concatenate((np.stack((np.cos(outer), np.sin(outer)), 1), bow))]


def _signed_area(loop: np.ndarray) -> float:
    x, y = loop.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _ring_points(count: int) -> np.ndarray:
    """`count` points on the unit circle `[count, 2]`."""
    angles = np.arange(count) * (2 * math.pi / count)
    return np.stack((np.cos(angles), np.sin(angles)), 1)


def _background(rng: Generator, height: int, width: int) -> np.ndarray:
    """A soft gradient with a weak texture, and things of no class: lines and faint blobs; `[h, w, 3]` float."""
    base = rng.uniform(40, 215, 3)
    coarse = base + rng.normal(0, 22, (int(rng.integers(2, 5)), int(rng.integers(2, 5)), 3))
    soft = Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        grain = rng.normal(0, rng.uniform(4, 12), (height // 4, width // 4, 3)) + 128
        small = Image.fromarray(grain.clip(0, 255).astype(np.uint8))
        texture = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))
        soft = Image.fromarray((np.asarray(soft, np.float32) + texture - 128).clip(0, 255).astype(np.uint8))
    brush = ImageDraw.Draw(soft, "RGBA")
    for _ in range(rng.poisson(1.6)):
        colour = (*(int(v) for v in rng.integers(0, 256, 3)), int(rng.integers(60, 170)))
        points = [(float(rng.uniform(0, width)), float(rng.uniform(0, height))) for _ in range(2)]
        brush.line(points, fill=colour, width=int(rng.integers(1, 3)))
    for _ in range(rng.poisson(0.8)):
        x, y, reach = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(6, 40)
        colour = (*(int(v) for v in rng.integers(0, 256, 3)), int(rng.integers(14, 34)))
        brush.ellipse((x - reach, y - reach * 0.7, x + reach, y + reach * 0.7), fill=colour)
    return np.asarray(soft, dtype=np.float32).copy()


def _paint(rng: Generator, patch: np.ndarray, alpha: np.ndarray) -> None:
    """Fill a shape on the canvas, in place, with a texture whose main colour stands out from what is behind it."""
    behind = patch[alpha > 0.5].mean(0) if (alpha > 0.5).any() else patch.mean((0, 1))
    main = rng.uniform(10, 245, 3)
    while np.linalg.norm(main - behind) < _CONTRAST:
        main = rng.uniform(0, 255, 3)
    second = main + rng.uniform(-1, 1, 3) * 70
    if np.linalg.norm(second - behind) < _CONTRAST * 0.6:
        second = main
    height, width = alpha.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, period = rng.uniform(0, math.pi), rng.uniform(4, 10) + 0.06 * max(height, width)
    along = (x * math.cos(angle) + y * math.sin(angle)) / period
    across = (y * math.cos(angle) - x * math.sin(angle)) / period
    kind = int(rng.integers(6))
    if kind == 0:
        weight = np.zeros_like(x)
    elif kind == 1:
        weight = (np.floor(along) % 2).astype(np.float32)  # stripes
    elif kind == 2:
        weight = ((np.floor(along) + np.floor(across)) % 2).astype(np.float32)  # checker
    elif kind == 3:
        weight = (along - along.min()) / max(float(np.ptp(along)), 1e-6)  # gradient
    elif kind == 4:
        weight = rng.random((height, width), dtype=np.float32)  # speckle
    else:
        weight = ((along % 1 - 0.5) ** 2 + (across % 1 - 0.5) ** 2 < 0.08).astype(np.float32)  # dots
    fill = main + (second - main) * weight[..., None]
    patch += (fill - patch) * alpha[..., None]


def _camera(rng: Generator, canvas: np.ndarray) -> Image.Image:
    """Exposure, sometimes a little blur, then sensor noise."""
    canvas = (canvas - 128) * rng.uniform(0.85, 1.1) + 128 + rng.uniform(-14, 14)
    if rng.random() < 0.25:
        image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
        canvas = np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8))), dtype=np.float32)
    noise = rng.standard_normal(canvas.shape, dtype=np.float32) * rng.uniform(1, 9)
    return Image.fromarray((canvas + noise).clip(0, 255).astype(np.uint8))
