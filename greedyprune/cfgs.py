"""The width list: `[[[attn, ffn] per encoder layer], [[self, cross, ffn] per decoder layer]]`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from greedyprune.errors import UserError

ENCODER_KINDS = ("attn", "ffn")
DECODER_KINDS = ("self", "cross", "ffn")
SHAPE = "[[[attn, ffn] per encoder layer], [[self, cross, ffn] per decoder layer]]"


@dataclass(frozen=True)
class Cfgs:
    """A width for every site of a detector's Transformer.

    Attributes:
        encoder: `(attn, ffn)` for each encoder layer.
        decoder: `(self, cross, ffn)` for each decoder layer.
    """

    encoder: tuple[tuple[int, int], ...]
    decoder: tuple[tuple[int, int, int], ...]

    def to_list(self) -> list[list[list[int]]]:
        """The published form: nested lists of integers."""
        return [[list(layer) for layer in self.encoder], [list(layer) for layer in self.decoder]]

    def __str__(self) -> str:
        return json.dumps(self.to_list())

    def widths(self) -> dict[str, int]:
        """Site name -> width, front to back, as `encoder.0.attn` ... `decoder.5.ffn`."""
        result = {}
        for part, layers, kinds in (("encoder", self.encoder, ENCODER_KINDS), ("decoder", self.decoder, DECODER_KINDS)):
            for index, layer in enumerate(layers):
                result.update({f"{part}.{index}.{kind}": width for kind, width in zip(kinds, layer, strict=True)})
        return result

    def replace(self, widths: dict[str, int]) -> "Cfgs":
        """A copy in which the named sites have other widths."""
        merged = {**self.widths(), **widths}
        encoder = tuple((merged[f"encoder.{i}.attn"], merged[f"encoder.{i}.ffn"]) for i in range(len(self.encoder)))
        decoder = tuple(
            (merged[f"decoder.{i}.self"], merged[f"decoder.{i}.cross"], merged[f"decoder.{i}.ffn"])
            for i in range(len(self.decoder))
        )
        return Cfgs(encoder, decoder)


def full_cfgs(enc_layers: int, dec_layers: int, hidden_dim: int, ffn_dim: int) -> Cfgs:
    """The widths of a dense model."""
    return Cfgs(((hidden_dim, ffn_dim),) * enc_layers, ((hidden_dim, hidden_dim, ffn_dim),) * dec_layers)


def parse_cfgs(value: "str | Sequence[Any] | Cfgs") -> Cfgs:
    """Read a width list from its text or nested lists. The text is read as JSON, never evaluated.

    Args:
        value: a Cfgs, nested lists, the text of one, or the words of a text that the shell took apart.

    Raises:
        UserError: not a list of this shape, with what was found and where.
    """
    if isinstance(value, Cfgs):
        return value
    if isinstance(value, (list, tuple)) and value and all(isinstance(word, str) for word in value):
        value = " ".join(value)
    if isinstance(value, str):
        text = value.strip()
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:  # ValueError alone: a number of thousands of digits
            where = getattr(error, "pos", 0)
            raise UserError(
                f"--cfgs is not a list: reading stops at character {where + 1}, near {text[where : where + 20]!r}; "
                f"expected {SHAPE}"
            ) from None
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        found = f"{len(value)} parts" if isinstance(value, (list, tuple)) else f"{value!r}"
        raise UserError(f"--cfgs has {found} where it needs 2 (encoder, decoder): {SHAPE}")
    return Cfgs(
        tuple(_layer(layer, "encoder", i, ENCODER_KINDS) for i, layer in enumerate(_part(value[0], "encoder"))),
        tuple(_layer(layer, "decoder", i, DECODER_KINDS) for i, layer in enumerate(_part(value[1], "decoder"))),
    )


def _part(value: Any, part: str) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)) or not value:
        raise UserError(f"--cfgs: the {part} part is {value!r}, expected a list with one entry per layer: {SHAPE}")
    return value


def _layer(value: Any, part: str, index: int, kinds: tuple[str, ...]) -> Any:
    place = f"--cfgs: {part} layer {index}"
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{place} is {value!r}, expected [{', '.join(kinds)}]")
    if len(value) != len(kinds):
        raise UserError(f"{place} has {len(value)} numbers ({list(value)}), expected {len(kinds)}: {', '.join(kinds)}")
    for kind, width in zip(kinds, value, strict=True):
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise UserError(f"{place}: {kind} is {width!r}, expected a whole number of at least 1")
    return tuple(value)


def check_cfgs(cfgs: Cfgs, dense: Cfgs, heads: int, unit: int = 1) -> Cfgs:
    """Check that a width list fits a dense model, and return it.

    Args:
        cfgs: the widths.
        dense: the model's full widths.
        heads: attention widths must be multiples of it,
        unit: or, where heads leave whole, of the channels of one: this, if it is not 1.

    Raises:
        UserError: names the layer and the two numbers that do not agree.
    """
    for part in ("encoder", "decoder"):
        have, need = len(getattr(cfgs, part)), len(getattr(dense, part))
        if have != need:
            raise UserError(f"--cfgs has {have} {part} layers, the model has {need}")
    full = dense.widths()
    for site, width in cfgs.widths().items():
        part, index, kind = site.split(".")
        place = f"--cfgs: {part} layer {index}: {kind} width {width}"
        if kind != "ffn" and unit > 1 and width % unit:
            raise UserError(f"{place} is not a multiple of the {unit} channels of a head, and heads leave whole here")
        if kind != "ffn" and unit == 1 and width % heads:
            raise UserError(f"{place} is not a multiple of the {heads} heads")
        if width > full[site]:
            raise UserError(f"{place} is wider than the dense model's {full[site]}")
    return cfgs
