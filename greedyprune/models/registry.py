"""One door to every detector: a name and its options."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greedyprune.errors import UserError
from greedyprune.models.deformable_detr import DeformableDETR, DNDeformableDETR, DNDeformableEncoderDETR
from greedyprune.models.detector import Detector
from greedyprune.models.dn_detr import DNDETR
from greedyprune.models.options import (
    DeformableOptions,
    DetectorOptions,
    DNDeformableEncoderOptions,
    DNDeformableOptions,
    DNDETROptions,
    ModelInfo,
)


@dataclass(frozen=True)
class ModelType:
    """A detector's class, and the class of its options."""

    model: Callable[..., Detector]
    options: type[DetectorOptions]


MODELS = {
    "dn_detr": ModelType(DNDETR, DNDETROptions),
    "dn_deformable_detr": ModelType(DNDeformableDETR, DNDeformableOptions),
    "dn_deformable_encoder_detr": ModelType(DNDeformableEncoderDETR, DNDeformableEncoderOptions),
    "deformable_detr": ModelType(DeformableDETR, DeformableOptions),
}


def build_model(
    name: str,
    cfgs: str | Sequence[Any] | Mapping[str, int] | None = None,
    *,
    cfgs_name: str = "cfgs",
    info: ModelInfo | None = None,
    **options: Any,
) -> Detector:
    """Build a detector with random weights.

    Args:
        name: one of `MODELS`: `dn_detr`, `dn_deformable_detr` (deformable encoder and decoder),
            `dn_deformable_encoder_detr` (deformable encoder, DN-DETR's decoder) or `deformable_detr` (no denoising).
        cfgs: the width of every site, as text or nested lists, or of some sites by name (see `DetrLayout.parse`);
            None: dense.
        cfgs_name: what messages call them: the flag that they were given with.
        info: class names, category ids and image size to keep with the model.
        options: see the options class of the model: `DNDETROptions`, `DNDeformableOptions`,
            `DNDeformableEncoderOptions` or `DeformableOptions`.

    Raises:
        UserError: an unknown name or option, or widths that do not fit.
    """
    if name not in MODELS:
        raise UserError(f"model {name!r} is unknown; choose one of {', '.join(MODELS)}")
    kind = MODELS[name]
    shape = kind.options.from_dict(options)
    return kind.model(shape, None if cfgs is None else shape.layout.parse(cfgs, cfgs_name), info)


def model_name(model: Detector) -> str:
    """The name under which a detector was built."""
    return next(name for name, kind in MODELS.items() if type(model) is kind.model)


def model_of(options: DetectorOptions) -> str:
    """The name of the detector that options are for."""
    return next(name for name, kind in MODELS.items() if type(options) is kind.options)
