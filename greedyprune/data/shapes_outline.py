"""The classes of the `shapes` set: outlines on the plane, and their anti-aliased stamps."""

import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

SUPERSAMPLES = 4  # sub-pixels along each axis


def _disc(u: Floats, v: Floats) -> Bools:
    return u * u + v * v <= 1


def _square(u: Floats, v: Floats) -> Bools:
    return np.maximum(np.abs(u), np.abs(v)) <= 1


def _triangle(u: Floats, v: Floats) -> Bools:
    return (v >= -0.5) & (0.8660254 * np.abs(u) + 0.5 * v <= 0.5)


def _star(u: Floats, v: Floats) -> Bools:
    """Five tips on the unit circle, the corners between them at radius `inner`."""
    inner, sin, cos = 0.5, 0.5877853, 0.8090170  # of 36 degrees
    u = np.abs(u)
    # Two reflections fold the plane into one tip's wedge, where the star is a half-plane.
    fold = 2 * np.maximum(cos * u - sin * v, 0)
    u, v = u - fold * cos, v + fold * sin
    fold = 2 * np.maximum(-cos * u - sin * v, 0)
    u, v = np.abs(u + fold * cos), v + fold * sin
    return (1 - inner * cos) * u <= inner * sin * (1 - v)


def _ring(u: Floats, v: Floats) -> Bools:
    square = u * u + v * v
    return (square <= 1) & (square >= 0.3)


def _cross(u: Floats, v: Floats) -> Bools:
    u, v = np.abs(u), np.abs(v)
    return (np.maximum(u, v) <= 1) & (np.minimum(u, v) <= 0.34)


def _crescent(u: Floats, v: Floats) -> Bools:
    return (u * u + v * v <= 1) & ((u - 0.55) ** 2 + v * v >= 0.64)


def _heart(u: Floats, v: Floats) -> Bools:
    square = u * u
    return (square + v * v - 1) ** 3 <= square * v * v * v


OUTLINES: dict[str, Callable[[Floats, Floats], Bools]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "crescent": _crescent,
    "heart": _heart,
}


@functools.cache
def measure(name: str) -> tuple[float, float]:
    """Area and largest distance from the origin of a class's outline, in its own units."""
    line = np.linspace(-1.5, 1.5, 601, dtype=np.float32)
    u, v = line[None, :], line[:, None]
    inside = OUTLINES[name](u, v)
    return float(inside.mean()) * 9.0, math.sqrt(float(np.where(inside, u * u + v * v, 0).max()))


def stamp(name: str, size: float, angle: float, aspect: float, shift: tuple[float, float]) -> Floats:
    """One object's coverage of the pixels around its centre.

    Args:
        name: class, a key of `OUTLINES`.
        size: square root of the object's area, in pixels.
        angle: rotation in radians.
        aspect: stretch along the object's own axis; the area stays.
        shift: where its centre lies off the middle of the stamp, x and y in pixels.

    Returns:
        `[n, n]` in 0..1: the covered share of each pixel.
    """
    area, radius = measure(name)
    scale, stretch = size / math.sqrt(area), math.sqrt(aspect)
    n = 2 * math.ceil(radius * scale * max(stretch, 1 / stretch) + 1)
    line = (np.arange(n * SUPERSAMPLES, dtype=np.float32) + 0.5) / SUPERSAMPLES - n / 2
    x, y = (line[None, :] - shift[0]) / scale, (line[:, None] - shift[1]) / scale
    cos, sin = math.cos(angle), math.sin(angle)
    inside = OUTLINES[name]((cos * x + sin * y) / stretch, (cos * y - sin * x) * stretch)
    rows = inside.reshape(n, SUPERSAMPLES, n * SUPERSAMPLES).sum(1, dtype=np.uint8)
    return rows.reshape(n, n, SUPERSAMPLES).sum(2, dtype=np.uint8).astype(np.float32) / SUPERSAMPLES**2
