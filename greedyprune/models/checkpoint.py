"""Checkpoints that know their shape, and the door for published ones. Loading runs no code from a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from greedyprune.errors import UserError
from greedyprune.models.detector import Detector
from greedyprune.models.importing.infer import infer_shape
from greedyprune.models.importing.mmdetection_meta import read_meta
from greedyprune.models.importing.pickled import read_pickled
from greedyprune.models.importing.published import convert_keys
from greedyprune.models.importing.wrapped import State, training_arguments, unwrap
from greedyprune.models.options import DetectorOptions, ModelInfo
from greedyprune.models.registry import MODELS, model_name, model_of
from greedyprune.models.weights import check_weights
from greedyprune.ranges import shown
from greedyprune.sites.layouts import DetrLayout
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
        "cfgs": model.options.layout.to_list(model.widths),
        "info": asdict(model.info),
    }
    write_tensors(path, own_tensors(model), {METADATA_KEY: json.dumps(about), **(extra or {})})


def read_checkpoint(path: str | Path, key: str | None = None) -> tuple[State, dict[str, Any], dict[str, Any]]:
    """Tensors of a checkpoint, what this project wrote about it, and a published file's training arguments.

    Every file with weights comes in by this door: the tensors are checked here, and are float32 from here on.

    Args:
        path: a `.safetensors` file, or one written by `torch.save`.
        key: which of several sets of weights; see `unwrap`.

    Raises:
        UserError: the file is missing, broken, or would run code; there is no set of weights, or more than one and no
            key; a tensor cannot be weights (see `check_weights`).
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
    about: dict[str, Any] = {}
    place = f"checkpoint {path}"
    if head[8:9] == b"{" or (path.suffix == ".safetensors" and not head.startswith(b"PK")):
        content, about = _read_safetensors(path)
        if about and key is not None:
            raise UserError(f"--key {key}: {place} is of this project and holds one set of weights; leave it out")
    else:
        content = read_pickled(path)
    state = content if about else unwrap(content, place, key)
    return check_weights(state, place), about, {} if about else training_arguments(content)


def _read_safetensors(path: Path) -> tuple[State, dict[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, AttributeError, TypeError):
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
        UserError: names the first tensor that is missing, left over or of another shape, with both shapes; or that
            cannot be weights.
    """
    if isinstance(source, Mapping):
        place = "the state dict"
        state = check_weights(unwrap(source, place), place)
    else:
        place = f"checkpoint {source}"
        state = read_checkpoint(source)[0]
    try:
        return _load(model, convert_keys(state), place)
    except UserError as error:
        raise UserError(_placed(error, place)) from None


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


def open_detector(
    options: DetectorOptions, widths: Mapping[str, int] | None, info: ModelInfo, state: State, place: str
) -> Detector:
    """A detector with these weights, in eval mode.

    It takes memory only once the weights are known to be its own: what a damaged file says of its model may be as large
    as it likes.

    Args:
        options: what it is built from.
        widths: see `Detector`.
        info: what its labels mean.
        state: checked weights under this project's names.
        place: where they are from, for messages.

    Raises:
        UserError: the weights are of another model; see `load_checkpoint`.
    """
    make = MODELS[model_of(options)].model
    try:
        with torch.device("meta"):
            sketch = make(options, widths, info)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    _own_state(sketch, state, place)
    return _load(make(options, widths, info), state, place).eval()


def _load(model: Detector, state: State, place: str) -> Detector:
    model.load_state_dict(_own_state(model, state, place), strict=False)  # further names of what is shared are left out
    return model


def _own_state(model: Detector, state: State, place: str) -> State:
    """The tensors of a state dict that a detector has; they must be all that it needs, and nothing else."""
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
    return state


def _unshare(state: State, further: Mapping[str, str], place: str) -> State:
    """A state dict without the further names of what the model shares; published ones hold each of them."""
    for key, name in further.items():
        if key in state and name in state and not torch.equal(state[name], state[key]):
            raise UserError(f"{place} is of another model: {name} and {key} differ, and are one tensor here")
    return {key: value for key, value in state.items() if key not in further}


def load_model(
    path: str | Path,
    cfgs: str | Sequence[Any] | Mapping[str, int] | None = None,
    *,
    cfgs_name: str = "cfgs",
    key: str | None = None,
    **overrides: Any,
) -> Detector:
    """A detector from a checkpoint alone: its shape, options and class names come from the file.

    Args:
        path: a file of this project, or a published one, whose shape is inferred from its tensors.
        cfgs: the widths that the caller expects; see `DetrLayout.parse`.
        cfgs_name: what messages call them: the flag that they were given with.
        key: which set of weights, of a published file that holds several: `ema`, or `state_dict.ema`.
        overrides: options that a published file does not tell (`heads`, `dilation`, temperatures, `whole_heads`).

    Returns:
        The model in eval mode.

    Raises:
        UserError: the file cannot be used, or its widths are not `cfgs`: names the first site that differs.
    """
    place = f"checkpoint {path}"
    state, about, arguments = read_checkpoint(path, key)
    try:
        told = read_meta(arguments.get("meta"), state, place)
        state = convert_keys(state)
        if about:
            options, widths, info = _described(about, overrides)
        else:
            options, widths = infer_shape(state, {**told.arguments, **arguments}, {**told.options, **overrides}, place)
            info = told.info(options.num_classes)
    except UserError as error:
        # The messages of options and widths do not know of the file.
        raise UserError(_placed(error, place)) from None
    if cfgs is not None:
        _expect(options.layout, widths, cfgs, cfgs_name, path)
    return open_detector(options, widths, info, state, place)


def _placed(error: UserError, place: str) -> str:
    """A message that says where, whether or not the error knows it."""
    return str(error) if place in str(error) else f"{place}: {error}"


def check_format(about: Mapping[str, Any]) -> None:
    """Refuse what a file says of itself in a way that this version does not know.

    Raises:
        UserError: names the format.
    """
    if about.get("format") != FORMAT:
        raise UserError(
            f"its format is {shown(about.get('format'))}, this version reads {FORMAT}: it is damaged, or of a newer "
            "version"
        )


def _described(
    about: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[DetectorOptions, dict[str, int], ModelInfo]:
    """What a file of this project says that it is."""
    check_format(about)
    name = about.get("model")
    if not isinstance(name, str) or name not in MODELS:
        raise UserError(f"it is of model {shown(name)}, this version knows {', '.join(MODELS)}")
    for part, kind in (("options", dict), ("cfgs", list), ("info", dict)):
        if not isinstance(about.get(part), kind):
            raise UserError(f"it has damaged metadata: its {part} are {shown(about.get(part))}")
    options = MODELS[name].options.from_dict({**about["options"], **overrides})
    widths = options.layout.parse(about["cfgs"], "its metadata's cfgs")
    heads = about["options"].get("whole_heads", False)
    # The tensors of a slim attention may fit either way; what it computes is another thing.
    if options.whole_heads != heads and widths != options.dense_widths():
        raise UserError(f"it is slim, and was {'' if heads else 'not '}pruned by whole heads: that cannot change")
    return options, widths, ModelInfo.from_dict(about["info"])


def _expect(
    layout: DetrLayout,
    have: Mapping[str, int],
    cfgs: str | Sequence[Any] | Mapping[str, int],
    name: str,
    path: str | Path,
) -> None:
    """Refuse other widths than the caller expects."""
    try:
        want = layout.parse(cfgs, name)
    except UserError as error:
        raise UserError(f"{error}; in checkpoint {path} they are {_shortened(layout.to_text(have))}") from None
    for site, width in want.items():
        if have[site] != width:
            raise UserError(
                f"{name} does not match checkpoint {path}: {layout.label(site)} is {width} in {name} and "
                f"{have[site]} in the checkpoint"
            )


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:76]}..."
