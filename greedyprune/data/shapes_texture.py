"""Surfaces of the `shapes` set: patterns, colours, and the clutter behind the objects."""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

PATTERNS = ("solid", "gradient", "stripes", "checker", "dots", "noise")


def pattern(rng: np.random.Generator, kind: str, height: int, width: int, period: float) -> Floats:
    """`[height, width]` in 0..1, turned and shifted at random; `period` in pixels."""
    if kind == "solid":
        return np.zeros((height, width), np.float32)
    if kind == "noise":
        return _value_noise(rng, height, width, period)
    angle = rng.uniform(0, 2 * math.pi)
    x = np.arange(width, dtype=np.float32)[None, :] - width / 2
    y = np.arange(height, dtype=np.float32)[:, None] - height / 2
    along, across = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    if kind == "gradient":
        return np.clip(along / math.hypot(height, width) + 0.5, 0, 1).astype(np.float32)
    turns, sharpness = 2 * math.pi / period, rng.uniform(1, 6)
    a = turns * along + rng.uniform(0, 2 * math.pi)
    if kind == "stripes":
        wave = np.sin(a)
    elif kind == "checker":
        wave = np.sin(a) * np.sin(turns * across)
    else:
        wave = np.cos(a) + np.cos(turns * across) - 0.7
    return (0.5 + 0.5 * np.clip(sharpness * wave, -1, 1)).astype(np.float32)


def _value_noise(rng: np.random.Generator, height: int, width: int, period: float) -> Floats:
    """Random values on a grid of `period` pixels, interpolated linearly."""
    rows, columns = math.ceil(height / period) + 2, math.ceil(width / period) + 2
    grid = rng.random((rows, columns), dtype=np.float32)
    y, x = np.arange(height) / period, np.arange(width) / period
    i, j = y.astype(int), x.astype(int)
    fy, fx = (y - i).astype(np.float32)[:, None], (x - j).astype(np.float32)[None, :]
    lines = grid[i] * (1 - fy) + grid[i + 1] * fy  # [height, columns]
    return lines[:, j] * (1 - fx) + lines[:, j + 1] * fx


def paint(field: Floats, first: Floats, second: Floats) -> Floats:
    """`[h, w, 3]`: from colour `first` where the pattern `[h, w]` is 0 to `second` where it is 1."""
    return first + field[..., None] * (second - first)


def second_colour(rng: np.random.Generator, first: Floats, distance: float) -> Floats:
    """Colours `[..., 3]` at most `distance` (root mean square of the channels) from `first`, inside 0..255."""
    step = rng.standard_normal(first.shape, dtype=np.float32)
    step *= distance / np.sqrt((step**2).mean(-1, keepdims=True))
    return np.clip(first + step, 0, 255)


def background(rng: np.random.Generator, height: int, width: int) -> Floats:
    """A textured surface `[height, width, 3]` with soft blobs and lines on it, which belong to no class."""
    first = rng.uniform(20, 235, 3).astype(np.float32)
    field = pattern(rng, PATTERNS[rng.integers(len(PATTERNS))], height, width, rng.uniform(6, 45))
    canvas = paint(field, first, second_colour(rng, first, rng.uniform(8, 42)))
    x = np.arange(width, dtype=np.float32)[None, :]
    y = np.arange(height, dtype=np.float32)[:, None]
    for _ in range(rng.integers(0, 4)):
        spread = rng.uniform(4, 30, 2)
        cover = np.exp(-(((x - rng.uniform(0, width)) / spread[0]) ** 2)) * np.exp(
            -(((y - rng.uniform(0, height)) / spread[1]) ** 2)
        )
        _cover(rng, canvas, cover, rng.uniform(20, 60))
    for _ in range(rng.integers(0, 5)):
        _cover(rng, canvas, _line(rng, x, y, height, width), rng.uniform(30, 90))
    return canvas


def _line(rng: np.random.Generator, x: Floats, y: Floats, height: int, width: int) -> Floats:
    """Coverage `[height, width]` of a straight stroke: 1 within its half-width, falling to 0 one pixel further."""
    angle, half_length, half_width = rng.uniform(0, math.pi), rng.uniform(8, 80), rng.uniform(0.4, 1.6)
    dx, dy = x - rng.uniform(0, width), y - rng.uniform(0, height)
    along, across = math.cos(angle) * dx + math.sin(angle) * dy, math.cos(angle) * dy - math.sin(angle) * dx
    distance = np.maximum(np.abs(across) - half_width, np.abs(along) - half_length)
    return np.clip(1 - distance, 0, 1).astype(np.float32)


def _cover(rng: np.random.Generator, canvas: Floats, cover: Floats, distance: float) -> None:
    colour = second_colour(rng, canvas.mean((0, 1)), distance)
    canvas += cover[..., None].astype(np.float32) * (colour - canvas)


def fill_colours(rng: np.random.Generator, behind: Floats, contrast: float, spread: float) -> tuple[Floats, Floats]:
    """Two colours for an object that stands out from what is behind its edge.

    Args:
        rng: source of the candidates.
        behind: `[k, 3]` colours of the pixels along the object's edge.
        contrast: root mean square difference of the channels that a pixel should have from both colours.
        spread: how far apart the two colours are.

    Returns:
        The candidate pair with that contrast to most of the pixels: `[3]` and `[3]`.
    """
    first = rng.uniform(0, 255, (16, 3)).astype(np.float32)
    second = second_colour(rng, first, spread)
    pairs = np.stack((first, second), 1)  # [16, 2, 3]
    distance = np.sqrt(((pairs[:, :, None] - behind) ** 2).mean(-1))  # [16, 2, k]
    clear = (distance.min(1) >= contrast).mean(-1)
    best = int(clear.argmax())
    return first[best], second[best]


def expose(rng: np.random.Generator, canvas: Floats) -> NDArray[np.uint8]:
    """The camera: sometimes a slight blur or another brightness, always noise. `[h, w, 3]` floats to uint8."""
    if rng.random() < 0.25:
        for axis in (0, 1):
            canvas = 0.5 * canvas + 0.25 * (_moved(canvas, 1, axis) + _moved(canvas, -1, axis))
    if rng.random() < 0.4:
        canvas = (canvas - 128) * rng.uniform(0.75, 1.2) + 128 + rng.uniform(-25, 25)
    noise = rng.standard_normal(canvas.shape, dtype=np.float32) * rng.uniform(1, 11)
    return np.clip(canvas + noise + 0.5, 0, 255).astype(np.uint8)


def _moved(canvas: Floats, step: int, axis: int) -> Floats:
    """The canvas one pixel further along an axis, its border repeated."""
    index = np.clip(np.arange(canvas.shape[axis]) + step, 0, canvas.shape[axis] - 1)
    return canvas.take(index, axis)
