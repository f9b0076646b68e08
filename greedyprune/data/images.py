"""Image files as RGB pixels: the one place that opens them. docs/DATA.md says what becomes of every kind."""

import errno
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from greedyprune.errors import UserError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_OF_THE_SYSTEM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # no fault of the image
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0, section 8


class ImageError(UserError):
    """An image that is listed cannot be used.

    A DataLoader raises what a worker raised again, with the worker's traceback for a message. Its last line is ours:
    that alone is kept.
    """

    def __init__(self, message: str) -> None:
        lines = message.strip().splitlines()
        super().__init__(lines[-1].partition(f"{ImageError.__name__}: ")[2] if len(lines) > 1 else message)


class Pixels(NamedTuple):
    """An image as it is meant to be seen.

    Attributes:
        rgb: uint8 `[h, w, 3]`.
        guessed: its EXIF orientation turns it, and width and height do not tell whether its annotations were made on
            the picture as stored or on the upright one; it is upright here.
    """

    rgb: np.ndarray
    guessed: bool


def irregular(path: Path) -> str:
    """What a path is that is there but no regular file: reading a pipe or a device may never end. Empty for files.

    Raises:
        OSError: it is not there, or cannot be looked at.
        ValueError: no file can have such a name.
    """
    mode = path.stat().st_mode
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no file")


def read_image(path: Path, size: tuple[int, int], what: str) -> Pixels:
    """Decode an image.

    Args:
        path: the file.
        size: height and width that the annotations say. Nothing is decoded where the file's differ.
        what: names the image; begins every message.

    Raises:
        ImageError: the file is missing, is no image or a broken one, has another size, or pixels of unknown range.
        OSError: there are no more files or memory to be had.
    """
    with _opened(path, what) as file:
        return _decode(file, size, what)


def upright_size(path: Path, what: str) -> tuple[int, int]:
    """Height and width of an image as it is seen; its pixels are not decoded.

    Args:
        path: the file.
        what: names the image; begins every message.

    Raises:
        ImageError: the file is missing or no image.
        OSError: there are no more files or memory to be had.
    """
    with _opened(path, what) as file:
        swapped = exif_orientation(file) > 4 and not isinstance(file, TiffImageFile)  # which Pillow turns
        width, height = file.size
        return (width, height) if swapped else (height, width)


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Image.Image]:
    """An image file; whatever goes wrong with it is an ImageError."""
    try:
        if kind := irregular(path):
            raise ImageError(f"{what} cannot be read: it is {kind}; replace it or remove it from the annotations")
        with Image.open(path) as file:
            yield file
    except FileNotFoundError:
        raise ImageError(f"{what} is listed in the annotations, but there is no such file") from None
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{what} cannot be read: {reason}; replace it or remove it from the annotations") from None


def is_ambiguous(path: Path, size: tuple[int, int]) -> bool:
    """Whether `read_image` would guess at the image; told by its header, False where it cannot be read."""
    try:
        if irregular(path):
            return False
        with Image.open(path) as file:
            orientation = exif_orientation(file)
            return orientation != 1 and _fits(file, orientation, size) == (True, True)
    except Exception:  # as above; reading the image itself will say so
        return False


def exif_orientation(file: Image.Image) -> int:
    """1 to 8 (Exif 2.32, tag 0x0112); 1, as stored, where there is none or no valid one."""
    try:
        if isinstance(file, TiffImageFile):
            value = file.tag_v2.get(ExifTags.Base.Orientation)
        elif isinstance(file, PngImageFile) and "exif" not in file.info:
            return 1  # Pillow would decode the image to look behind its pixels
        else:
            value = file.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken EXIF data say nothing, as in browsers
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror stored pixels `[h, w, ...]` as an EXIF orientation says."""
    if orientation in (2, 4, 5, 7):
        pixels = pixels[:, ::-1]
    quarters = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.ascontiguousarray(np.rot90(pixels, quarters))


def _decode(file: Image.Image, size: tuple[int, int], what: str) -> Pixels:
    if file.format == "EPS":
        raise ImageError(f"{what} is a PostScript program, not an image; save it with pixels")
    if sorted(file.size) != sorted(size):
        raise ImageError(_of_another_size(file.size, size, what))
    orientation = exif_orientation(file)  # of a TIFF, which forgets it
    file.load()
    orientation = max(orientation, exif_orientation(file))  # of a PNG that has it behind the pixels
    as_stored, turned = _fits(file, orientation, size)
    if not as_stored and not turned:
        raise ImageError(_of_another_size(file.size, size, what))
    rgb = _rgb(file, what)
    is_turned = isinstance(file, TiffImageFile)  # by Pillow
    if turned and not is_turned:
        rgb = upright(rgb, orientation)
    elif is_turned and not turned:
        rgb = upright(rgb, {6: 8, 8: 6}.get(orientation, orientation))
    return Pixels(rgb, as_stored and turned and orientation != 1)


def _fits(file: Image.Image, orientation: int, size: tuple[int, int]) -> tuple[bool, bool]:
    """Whether an image has this height and width as it is stored, and whether it has them when it is upright."""
    shape = file.size[::-1]
    swapped = shape[::-1] if orientation > 4 else shape
    # Pillow gives the upright size of a TIFF.
    stored, turned = (swapped, shape) if isinstance(file, TiffImageFile) else (shape, swapped)
    return stored == size, turned == size


def _of_another_size(found: tuple[int, int], size: tuple[int, int], what: str) -> str:
    return f"{what} is {found[0]} x {found[1]} pixels, but {size[1]} x {size[0]} in the annotations; correct them"


def _rgb(file: Image.Image, what: str) -> np.ndarray:
    """uint8 `[h, w, 3]` of a loaded image, as it lies."""
    mode = file.mode
    if mode == "RGB":
        return np.array(file)
    if bits := _grey_bits(file):
        grey = (np.asarray(file) >> (bits - 8)).astype(np.uint8)  # [h, w]; the high byte, as Pillow does for 16-bit RGB
        if isinstance(file, TiffImageFile) and file.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            grey = 255 - grey  # Pillow does so for 8 bits only
        return np.repeat(grey[:, :, None], 3, axis=2)
    if mode in ("I", "F"):
        raise ImageError(
            f"{what} has pixels of mode {mode}, and the file does not say which values are black and white; "
            "save it with 8 bits, or as unsigned 16-bit greyscale"
        )
    if mode in ("P", "PA"):
        return np.array(file.convert("RGBA"))[:, :, :3]  # Pillow complains on the direct way
    return np.array(file.convert("RGB"))


def _grey_bits(file: Image.Image) -> int:
    """Bits of the values of a greyscale image that has more than 8 of them; 0 for others, and where it is not known."""
    if file.mode.startswith("I;16"):
        return int(file.tag_v2[_BITS_PER_SAMPLE][0]) if isinstance(file, TiffImageFile) else 16
    # What older Pillows make of PNGs with 16 bits, and all of PGMs, whose values they scale to 16.
    return 16 if file.mode == "I" and file.format in ("PNG", "PPM") else 0
