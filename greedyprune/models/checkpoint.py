"""Checkpoints that know their shape, and the door for published ones. Loading runs no code from a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from greedyprune.cfgs import Cfgs, parse_cfgs, site_words
from greedyprune.errors import UserError
from greedyprune.models.detector import Detector
from greedyprune.models.infer import infer_shape
from greedyprune.models.options import ModelInfo
from greedyprune.models.pickled import read_pickled
from greedyprune.models.published import State, as_float32, convert_keys, unwrap
from greedyprune.models.registry import MODELS, build_model, model_name, model_of
from greedyprune.tensors import write_tensors

METADATA_KEY = "greedyprune"
FORMAT = 1


def save_checkpoint(model: Detector, path: str | Path, extra: Mapping[str, str] | None = None) -> None:
    """Write weights, name, options, widths, class names and image size as one safetensors file.

    Written beside `path` and renamed, so that a kill leaves the old file or the new one.

    Args:
        model: the detector.
        path: a `.safetensors` file.
        extra: more text to keep in the file's metadata.

    Raises:
        UserError: a weight is not finite.
    """
    about = {
        "format": FORMAT,
        "model": model_name(model),
        "options": model.options.to_dict(),
        "cfgs": model.cfgs.to_list(),
        "info": asdict(model.info),
    }
    write_tensors(path, own_tensors(model), {METADATA_KEY: json.dumps(about), **(extra or {})})


def read_checkpoint(path: str | Path) -> tuple[State, dict[str, Any], dict[str, Any]]:
    """Tensors of a checkpoint, what this project wrote about it, and a published file's training arguments.

    Args:
        path: a `.safetensors` file, or one written by `torch.save`.

    Raises:
        UserError: the file is missing, broken, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"checkpoint {path} does not exist" if not path.exists() else f"checkpoint {path} is not a file"
        )
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror}") from None
    # A safetensors file is the length of its header and a JSON object; a file of today's torch.save is a zip.
    if head[8:9] == b"{" or (path.suffix == ".safetensors" and not head.startswith(b"PK")):
        return (*_read_safetensors(path), {})
    state, arguments = unwrap(read_pickled(path), f"checkpoint {path}")
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
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise UserError(f"checkpoint {path} has damaged metadata: what it says about its model is no JSON object")
    return state, about


def load_checkpoint(model: Detector, source: str | Path | Mapping[str, Tensor]) -> Detector:
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
        return _load(model, as_float32(convert_keys(source)), "the state dict")
    return _load(model, as_float32(convert_keys(read_checkpoint(source)[0])), f"checkpoint {source}")


def own_tensors(model: Detector) -> State:
    """A detector's tensors as a checkpoint holds them: what several layers share is there once, by its first name."""
    return _names(model)[0]


def _names(model: Detector) -> tuple[State, dict[str, str]]:
    """A detector's tensors, each by its first name; and of every further name the first."""
    own: State = {}
    further: dict[str, str] = {}
    first: dict[int, str] = {}
    for key, value in convert_keys(model.state_dict(keep_vars=True)).items():
        name = first.setdefault(id(value), key)
        if name == key:
            own[key] = value
        else:
            further[key] = name
    return own, further


def _load(model: Detector, state: State, place: str) -> Detector:
    own, further = _names(model)
    state = _unshare(state, further, place)
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
    model.load_state_dict(state, strict=False)  # other names of what is shared are left out
    return model


def _unshare(state: State, further: Mapping[str, str], place: str) -> State:
    """A state dict without the further names of what the model shares; published ones hold each of them."""
    for key, name in further.items():
        if key in state and name in state and not torch.equal(state[name], state[key]):
            raise UserError(f"{place} is of another model: {name} and {key} differ, and are one tensor here")
    return {key: value for key, value in state.items() if key not in further}


def load_model(path: str | Path, cfgs: str | Sequence[Any] | Cfgs | None = None, **overrides: Any) -> Detector:
    """A detector from a checkpoint alone: its shape, options and class names come from the file.

    Args:
        path: a file of this project, or a published one, whose shape is inferred from its tensors.
        cfgs: the widths that the caller expects.
        overrides: options that a published file does not tell (`heads`, `dilation`, temperatures, `whole_heads`).

    Returns:
        The model in eval mode.

    Raises:
        UserError: the file cannot be used, or its widths are not `cfgs`: names the first layer that differs.
    """
    state, about, arguments = read_checkpoint(path)
    state = as_float32(convert_keys(state))
    if about:
        model = _build_described(about, overrides, path)
    else:
        options, widths = infer_shape(state, arguments, overrides, f"checkpoint {path}")
        model = MODELS[model_of(options)].model(options, widths)
    if cfgs is not None:
        _expect(model.cfgs, parse_cfgs(cfgs), path)
    return _load(model, state, f"checkpoint {path}").eval()


def _build_described(about: Mapping[str, Any], overrides: Mapping[str, Any], path: str | Path) -> Detector:
    """The model that a file of this project says it is."""
    if about.get("format") != FORMAT:
        raise UserError(
            f"checkpoint {path} has format {about.get('format')!r}, this version reads {FORMAT}: it is damaged, "
            "or of a newer version"
        )
    if str(about.get("model")) not in MODELS:
        raise UserError(f"checkpoint {path} is of model {about.get('model')!r}, this version knows {', '.join(MODELS)}")
    try:
        info: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about["info"].items()}
        options = {**about["options"], **overrides}
        model = build_model(about["model"], about["cfgs"], info=ModelInfo(**info), **options)
        heads = bool(about["options"].get("whole_heads"))
        # The tensors of a slim attention may fit either way; what it computes is another thing.
        if model.options.whole_heads != heads and model.cfgs != model.options.dense_cfgs():
            raise UserError(f"it is slim, and was {'' if heads else 'not '}pruned by whole heads: that cannot change")
        return model
    except UserError as error:
        raise UserError(f"checkpoint {path}: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        detail = " ".join(str(error).split())
        raise UserError(f"checkpoint {path} has damaged metadata: it describes no model ({detail})") from None


def _expect(found: Cfgs, expected: Cfgs, path: str | Path) -> None:
    have, want = found.widths("all"), expected.over(found.dense_backbone).widths("all")
    for site in [*have, *want]:
        if have.get(site) != want.get(site):
            raise UserError(
                f"--cfgs does not match checkpoint {path}: {site_words(site)} is "
                f"{want.get(site, 'absent')} in --cfgs and {have.get(site, 'absent')} in the checkpoint"
            )
