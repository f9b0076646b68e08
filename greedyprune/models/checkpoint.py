"""Checkpoints that know their shape, and the door for published ones. Loading runs no code from a file."""

import argparse
import collections
import json
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from greedyprune.cfgs import Cfgs, parse_cfgs
from greedyprune.errors import UserError
from greedyprune.files import atomic_write
from greedyprune.models.dn_detr import DNDETR
from greedyprune.models.options import ModelInfo
from greedyprune.models.published import State, as_float32, convert_keys, infer_shape, unwrap
from greedyprune.models.registry import MODELS, build_model, model_name

METADATA_KEY = "greedyprune"
# What torch.save put beside the weights in the published training code; all of it is plain data.
_SAFE_TYPES: list[Any] = [
    argparse.Namespace,
    collections.Counter,
    np.dtype,
    np.ndarray,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
]
_multiarray = getattr(np, "_core", None) or np.core
# Files name these by the module path of the NumPy that wrote them.
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _SAFE_TYPES.append((_multiarray.multiarray.scalar, f"{_module}.scalar"))


def save_checkpoint(model: DNDETR, path: str | Path, extra: Mapping[str, str] | None = None) -> None:
    """Write weights, name, options, widths, class names and image size as one safetensors file.

    Written beside `path` and renamed, so that a kill leaves the old file or the new one.

    Args:
        model: the detector.
        path: a `.safetensors` file.
        extra: more text to keep in the file's metadata.
    """
    about = {
        "format": 1,
        "model": model_name(model),
        "options": model.options.to_dict(),
        "cfgs": model.cfgs.to_list(),
        "info": asdict(model.info),
    }
    state = convert_keys(model.state_dict())
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    metadata = {METADATA_KEY: json.dumps(about), **(extra or {})}
    atomic_write(path, safetensors.torch.save(tensors, metadata))


def read_checkpoint(path: str | Path) -> tuple[State, dict[str, Any], dict[str, Any]]:
    """Tensors of a checkpoint, what this project wrote about it, and a published file's training arguments.

    Args:
        path: a `.safetensors` file, or one written by `torch.save`.

    Raises:
        UserError: the file is missing, broken, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist" if not path.exists() else f"checkpoint {path} is not a file")
    with path.open("rb") as file:
        head = file.read(9)
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return (*_read_safetensors(path), {})
    try:
        with torch.serialization.safe_globals(_SAFE_TYPES):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)|Unsupported (?:class|global) ([\w.]+)", str(error))
        if refused:
            raise UserError(
                f"checkpoint {path} asks to run {refused[1] or refused[2]}, which is not on the list of safe types; "
                "it was not loaded: save its state dict alone, as safetensors"
            ) from None
        raise UserError(f"checkpoint {path} is broken or not a checkpoint") from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, IndexError, AttributeError):
        raise UserError(f"checkpoint {path} is broken, truncated or not a checkpoint") from None
    state, arguments = unwrap(content, str(path))
    return state, {}, arguments


def _read_safetensors(path: Path) -> tuple[State, dict[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError, ValueError):
        raise UserError(f"checkpoint {path} is broken, truncated or not a safetensors file") from None
    try:
        about = json.loads(metadata.get(METADATA_KEY, "{}"))
    except json.JSONDecodeError:
        raise UserError(f"checkpoint {path} has broken metadata") from None
    return state, about


def load_checkpoint(model: DNDETR, source: str | Path | Mapping[str, Tensor]) -> DNDETR:
    """Load weights into a detector of the same shape.

    Args:
        model: the detector; its weights are replaced.
        source: a file of this project, a published one (dense, slim, or search-time), or a state dict.

    Returns:
        The model.

    Raises:
        UserError: names the first tensor that is missing, left over or of another shape, with both shapes.
    """
    if isinstance(source, Mapping):
        state, place = dict(source), "the state dict"
    else:
        state, place = read_checkpoint(source)[0], f"checkpoint {source}"
    state = as_float32(convert_keys(state))
    own = convert_keys(model.state_dict())
    # Batch norm's counter is only there where the norm is trained.
    state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked") or key in own}
    for key, value in own.items():
        if key not in state:
            raise UserError(f"{place} is of another model: it has no {key} (shape {list(value.shape)} here)")
        if state[key].shape != value.shape:
            raise UserError(
                f"{place} is of another model: {key} has shape {list(state[key].shape)}, here it is {list(value.shape)}"
                + ("; the numbers of classes differ" if key.startswith(("class_embed", "label_enc")) else "")
            )
    for key in state:
        if key not in own:
            raise UserError(f"{place} is of another model: it has {key}, which this model lacks")
    model.load_state_dict(state, strict=False)  # the decoder's name of the shared box head is left out
    return model


def load_model(path: str | Path, cfgs: str | Sequence[Any] | Cfgs | None = None, **overrides: Any) -> DNDETR:
    """A detector from a checkpoint alone: its shape, options and class names come from the file.

    Args:
        path: a file of this project, or a published one, whose shape is inferred from its tensors.
        cfgs: the widths that the caller expects.
        overrides: options that a published file does not tell (`heads`, `dilation`, temperatures).

    Returns:
        The model in eval mode.

    Raises:
        UserError: the file cannot be used, or its widths are not `cfgs`: names the first layer that differs.
    """
    state, about, arguments = read_checkpoint(path)
    if about:
        if about.get("model") not in MODELS or not isinstance(about.get("options"), dict):
            raise UserError(f"checkpoint {path} is of model {about.get('model')!r}, which this version does not know")
        info = ModelInfo(**{k: tuple(v) if isinstance(v, list) else v for k, v in about.get("info", {}).items()})
        model = build_model(about["model"], about["cfgs"], info=info, **{**about["options"], **overrides})
    else:
        options, widths = infer_shape(as_float32(convert_keys(state)), arguments, overrides)
        model = DNDETR(options, widths)
    if cfgs is not None:
        _expect(model.cfgs, parse_cfgs(cfgs), path)
    return load_checkpoint(model, state).eval()


def _expect(found: Cfgs, expected: Cfgs, path: str | Path) -> None:
    have, want = found.widths(), expected.widths()
    for site in [*have, *want]:
        if have.get(site) != want.get(site):
            part, index, kind = site.split(".")
            raise UserError(
                f"--cfgs does not match checkpoint {path}: {part} layer {index}: {kind} is "
                f"{want.get(site, 'absent')} in --cfgs and {have.get(site, 'absent')} in the checkpoint"
            )
