"""The form in which a detector wants its images."""

from dataclasses import dataclass

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Sides:
    """Images keep their aspect.

    Attributes:
        short: pixels that the shorter side gets.
        long: pixels that the longer side gets at most; the shorter one has fewer then.
    """

    short: int
    long: int


@dataclass(frozen=True)
class Stretched:
    """Every image gets the same size, whatever its aspect.

    Attributes:
        height: in pixels.
        width: in pixels.
    """

    height: int
    width: int


@dataclass(frozen=True)
class ImageForm:
    """Size and normalisation of images.

    Attributes:
        size: in pixels.
        mean: of the colours in 0..1, which becomes 0.
        std: the deviation that becomes 1.
    """

    size: Sides | Stretched
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @classmethod
    def unnormalised(cls, size: Sides | Stretched) -> "ImageForm":
        """Colours in 0..1 as they are."""
        return cls(size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
