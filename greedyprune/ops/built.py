"""Which compiled kernels are there: found on first use, and never a reason to fail."""

import functools
import importlib
import os
from types import ModuleType
from typing import NamedTuple

import torch

# The interface of greedyprune_ops that this package calls.
INTERFACE = 1

SWITCH = "GREEDYPRUNE_OPS"


class Built(NamedTuple):
    """An implementation of one kind of device: the module that calls its kernels (None: pure PyTorch), and why."""

    module: ModuleType | None
    reason: str


@functools.cache
def find(device: str) -> Built:
    """What runs on devices of type `device` ("cpu", "cuda", ...)."""
    if device not in ("cpu", "cuda"):
        return Built(None, f"there are no kernels for {device}")
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "no"):
        return Built(None, f"switched off by {SWITCH}={os.environ[SWITCH]}")
    if device == "cuda" and not torch.cuda.is_available():
        return Built(None, "PyTorch sees no CUDA device")
    # Whatever is wrong with what somebody built, the pure path goes on.
    try:
        package = importlib.import_module("greedyprune_ops")
        if package.INTERFACE != INTERFACE:
            return Built(
                None,
                f"greedyprune_ops has interface {package.INTERFACE}, greedyprune calls {INTERFACE}: "
                "run pip install ./ops of the same release",
            )
        module = importlib.import_module(f"greedyprune_ops.{device}")
        return Built(module, module.describe())
    except ModuleNotFoundError as error:
        if error.name == "greedyprune_ops":
            return Built(None, "greedyprune_ops is not installed: run pip install ./ops")
        return Built(None, _line(error))
    except Exception as error:
        return Built(None, _line(error))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@torch.compiler.assume_constant_result
def is_built(device: str) -> bool:
    """Whether compiled kernels run on devices of type `device`; a constant to torch.compile."""
    return find(device).module is not None
