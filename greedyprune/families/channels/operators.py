"""What is known of PyTorch's operators, by name: which only rearrange, which keep channels, which tie them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from greedyprune.families.channels.tracer import NOTHING, STRANGER, Operator, Tracer, merged, unknown

_SAME = ("clone", "contiguous", "_to_copy", "detach", "alias", "lift_fresh")
_REARRANGE = (
    *("permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "slice", "select", "unbind", "cat", "stack"),
    *("flip", "roll", "repeat", "index_select", "split", "split_with_sizes", "constant_pad_nd"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "view", "_unsafe_view", "reshape", "_reshape_alias"),
)
_ZERO_AT_ZERO = (
    *("relu", "leaky_relu", "silu", "gelu", "mish", "hardswish", "elu", "celu", "selu", "tanh", "neg", "abs"),
    *("hardtanh", "relu6", "native_dropout", "sqrt", "sign"),
)
_OTHER_AT_ZERO = ("sigmoid", "hardsigmoid", "exp", "softplus", "cos")
_MAPS = (
    *("max_pool2d", "max_pool2d_with_indices", "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d"),
    *("adaptive_max_pool2d", "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d"),
    *("upsample_bicubic2d", "replication_pad2d", "reflection_pad2d"),
)
Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]


def _same(tracer: Tracer, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    if (labels := tracer.labels(args[0])) is not None:
        tracer.mark(result, labels.numbers, labels.zero)
    elif (origin := tracer.origin(args[0])) is not None:
        tracer.comes_from(result, *origin)


def _rearranged(tracer: Tracer, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """The same is done to the numbers. Equal parts of a split are tied: their number says how long each is."""
    name = func.overloadpacket.__name__
    origin = tracer.origin(args[0])
    if origin is not None:
        if isinstance(result, Tensor):
            tracer.comes_from(result, origin[0], _done(func, (origin[1], *args[1:]), kwargs))
        return
    if name == "index_select" and args[2].is_meta:
        unknown(tracer, func, args, kwargs, result)
        return
    zeros: list[bool] = []

    def numbers(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        labels = tracer.labels(value)
        if labels is None:
            # An index is itself; what nobody wrote is a stranger's.
            whole = not value.is_floating_point() and name == "index_select"
            return value if whole else torch.full((), STRANGER).expand(value.shape)
        zeros.append(labels.zero)
        return labels.numbers

    given = tree_map(numbers, tuple(args))
    if name == "constant_pad_nd":
        value = args[2] if len(args) > 2 else 0
        given = (*given[:2], NOTHING if value in (0, float("-inf")) else STRANGER)
    found = _done(func, given, kwargs)
    if isinstance(result, Tensor):
        tracer.mark(result, found, all(zeros))
        return
    for tensor, own in zip(result, found, strict=True):
        tracer.mark(tensor, own, all(zeros))
        if name == "split" and own.shape == found[0].shape:
            tracer.tie(found[0], own)


def _done(func: Any, args: Args, kwargs: Kwargs) -> Any:
    if func.overloadpacket.__name__ in ("view", "_unsafe_view", "_reshape_alias"):
        return args[0].reshape(args[1])
    return func(*args, **kwargs)


def _unary(zero: bool) -> Operator:
    def kept(tracer: Tracer, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
        labels = tracer.labels(args[0])
        if labels is not None:
            given = result if isinstance(result, Tensor) else result[0]
            tracer.mark(given, labels.numbers, labels.zero and zero)

    return kept


def _clamped(tracer: Tracer, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    low, high = (args[index] if len(args) > index else kwargs.get(name) for index, name in ((1, "min"), (2, "max")))
    numbers = all(isinstance(each, (int, float, type(None))) for each in (low, high))
    holds = numbers and (low is None or low <= 0) and (high is None or high >= 0)
    _unary(holds)(tracer, func, args, kwargs, result)


def _on_maps(tracer: Tracer, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """Every channel of a map `[..., C, h, w]` by itself."""
    labels = tracer.labels(args[0])
    given = result if isinstance(result, Tensor) else result[0]
    numbers = tracer.channels(args[0], args[0].dim() - 3)
    if labels is not None and numbers is not None:
        tracer.spread(given, numbers, given.dim() - 3, labels.zero)


def _reduced(tracer: Tracer, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """Over dimensions along which nothing but one channel lies."""
    labels = tracer.labels(args[0])
    if labels is None or not isinstance(result, Tensor):
        return
    given = args[1] if len(args) > 1 else kwargs.get("dim")
    every = range(labels.numbers.dim())
    dims = list(every) if given in (None, []) else [given] if isinstance(given, int) else list(given)
    keep = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
    numbers = labels.numbers
    if any(_varies(numbers, dim) for dim in dims):
        tracer.pin(numbers, f"is summed up by {func.overloadpacket.__name__}")
        return
    for dim in sorted((dim % numbers.dim() for dim in dims), reverse=True):
        numbers = numbers.narrow(dim, 0, 1) if keep else numbers.select(dim, 0)
    tracer.mark(result, numbers, labels.zero)


def _binary(tracer: Tracer, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """Sums and products, element by element."""
    name = func.overloadpacket.__name__.rstrip("_")
    one, other = args[0], args[1]
    product = name in ("mul", "div")
    first, second = tracer.labels(one), tracer.labels(other)
    if first is not None and second is not None:
        mine, theirs = torch.broadcast_tensors(first.numbers, second.numbers)
        tracer.tie(mine, theirs)
        if name == "div":
            tracer.pin(merged(mine, theirs), "is divided by")
        zero = first.zero or second.zero if product else first.zero and second.zero
        tracer.mark(result, merged(mine, theirs), zero)
        return
    labels, own, beside = (first, one, other) if first is not None else (second, other, one)
    if labels is None:
        return
    numbers = labels.numbers.expand(result.shape)
    if name == "div" and own is other:
        tracer.pin(numbers, "is divided by")
    elif not isinstance(beside, Tensor) or beside.numel() == 1:
        tracer.mark(result, numbers, labels.zero and (product or _is_zero(beside)))
    elif (origin := tracer.origin(beside)) is not None:
        _with_parameter(tracer, result, numbers, labels.zero, *origin)
    elif product and not any(_varies(numbers, -dim) for dim in range(1, beside.dim() + 1) if beside.shape[-dim] > 1):
        tracer.mark(result, numbers, labels.zero)
    else:
        tracer.pin(numbers, "meets something that no convolution writes")


def _with_parameter(tracer: Tracer, result: Tensor, numbers: Tensor, zero: bool, name: str, places: Tensor) -> None:
    """A parameter with an element for every channel is sliced with them."""
    pairs = torch.stack((places.expand(result.shape).reshape(-1), numbers.reshape(-1))).unique(dim=1)
    best = torch.full((int(places.max()) + 1,), NOTHING).scatter_reduce(0, pairs[0], pairs[1], "amax")
    tracer.tie(best[pairs[0]], pairs[1])
    dim = max(range(len(shape := _shape(tracer, name))), key=shape.__getitem__)
    tracer.lies(name, dim, "hidden", best, name.rpartition(".")[0])
    tracer.mark(result, numbers, zero)


def _shape(tracer: Tracer, name: str) -> torch.Size:
    return tracer.model.state_dict(keep_vars=True)[name].shape


def _varies(numbers: Tensor, dim: int) -> bool:
    """Whether different channels lie along a dimension."""
    return bool(numbers.shape[dim] > 1 and numbers.stride(dim) and (numbers != numbers.narrow(dim, 0, 1)).any())


def _is_zero(value: Any) -> bool:
    return not isinstance(value, Tensor) and value == 0


OPERATORS: dict[str, Operator] = {
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_REARRANGE, _rearranged),
    **dict.fromkeys(_ZERO_AT_ZERO, _unary(True)),
    **dict.fromkeys(_OTHER_AT_ZERO, _unary(False)),
    **dict.fromkeys(_MAPS, _on_maps),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduced),
    **dict.fromkeys(("add", "sub", "mul", "div", "maximum", "minimum"), _binary),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), _clamped),
}
