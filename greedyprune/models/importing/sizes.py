"""The sizes in a published state dict, with messages that say what is amiss."""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from greedyprune.errors import UserError
from greedyprune.models.importing.wrapped import State
from greedyprune.models.layout import BLOCK_KINDS, Blocks
from greedyprune.ranges import shown


class Sizes:
    """The sizes in a state dict and the values in its training arguments.

    Args:
        state: converted keys.
        arguments: the published code's own training arguments, may be empty.
        place: where it was read, for messages.
        kind: what it should be, for messages.
    """

    def __init__(self, state: State, arguments: Mapping[str, Any], place: str, kind: str = "DN-DETR") -> None:
        self.state, self.arguments, self.place, self.kind = state, arguments, place, kind

    def matrix(self, key: str) -> tuple[int, int]:
        """Rows and columns of a tensor."""
        if key not in self.state:
            raise self._foreign(f"it has no {key}")
        shape = self.state[key].shape
        if len(shape) != 2:
            raise self._foreign(f"{key} has shape {list(shape)}, expected a matrix")
        return shape[0], shape[1]

    def rows(self, key: str) -> int:
        return self.matrix(key)[0]

    def layers(self, part: str) -> list[int]:
        """Numbers of the layers of the encoder or decoder that have tensors; at least one."""
        names = (re.match(rf"transformer\.{part}\.layers\.(\d{{1,4}})\.", key) for key in self.state)
        found = sorted({int(name[1]) for name in names if name})
        if not found:
            raise self._foreign(f"it has no transformer.{part}.layers")
        return found

    def argument(self, name: str, kind: type[Any], default: Any) -> Any:
        """A training argument, or the published default.

        Raises:
            UserError: it is neither of this kind, nor a number or text that says one.
        """
        value = self.arguments.get(name, default)
        if kind is bool and value in (None, 0, 1):
            return bool(value)
        if kind is int and isinstance(value, float) and not value.is_integer():
            value = None
        if (kind is str and isinstance(value, str)) or (kind in (int, float) and type(value) in (int, float, str)):
            with contextlib.suppress(ValueError, OverflowError):
                return kind(value)
        raise UserError(f"{self.place} was trained with {name} = {shown(value)}, which is no {kind.__name__}")

    def backbone(self) -> str:
        """Which network the backbone's tensors are of."""
        body = "backbone.0.body"
        if f"{body}.layer4.0.conv1.weight" not in self.state:
            return "small"
        third = count_names(self.state, f"{body}.layer3")
        if f"{body}.layer4.0.conv3.weight" in self.state:
            return "resnet101" if third > 6 else "resnet50"
        return "resnet34" if third > 2 else "resnet18"

    def inner_widths(self, dense: Blocks) -> Blocks:
        """The inner widths of the backbone's blocks.

        Args:
            dense: those of the dense backbone. Tensors that are not of a narrower one count as dense here, so that what
                is amiss with them is said by their names when they are loaded.
        """
        names = (re.fullmatch(r"backbone\.0\.body\.layer(\d+)\.(\d+)\.conv1\.weight", key) for key in self.state)
        places = sorted((int(name[1]), int(name[2])) for name in names if name)
        found = []
        for (stage, block), full in zip(places, dense, strict=False):
            prefix = f"backbone.0.body.layer{stage}.{block}"
            keys = [f"{prefix}.{kind}.weight" for kind in BLOCK_KINDS[: len(full)]]
            found.append(tuple(len(self.state[key]) for key in keys if key in self.state and self.state[key].dim()))
        fits = len(places) == len(dense) and all(
            len(inner) == len(full) and all(1 <= width <= most for width, most in zip(inner, full, strict=True))
            for inner, full in zip(found, dense, strict=True)
        )
        return tuple(found) if fits else dense

    def _foreign(self, detail: str) -> UserError:
        name = self.arguments.get("modelname")
        name = name if isinstance(name, str) else ""
        kind = f"{self.place} is not a {self.kind}'s: {detail}"
        return UserError(kind + (f" (it calls itself {shown(name)})" if name else ""))


def count_names(state: State, prefix: str) -> int:
    """How many different names follow a prefix."""
    return len({key.removeprefix(prefix + ".").split(".")[0] for key in state if key.startswith(prefix + ".")})
