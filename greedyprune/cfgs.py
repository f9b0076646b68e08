"""The width list: `[[[attn, ffn] per encoder layer], [[self, cross, ffn] per decoder layer]]`.

A third part, `[[inner widths] per backbone block]`, follows where the backbone is not dense.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from greedyprune.errors import UserError
from greedyprune.ranges import COUNT, shown

ENCODER_KINDS = ("attn", "ffn")
DECODER_KINDS = ("self", "cross", "ffn")
BACKBONE_KINDS = ("conv1", "conv2")
SHAPE = "[[[attn, ffn] per encoder layer], [[self, cross, ffn] per decoder layer]]"
BACKBONE_SHAPE = "a third part, [[inner width or widths] per backbone block], only where the backbone is pruned"
# The parts of a detector whose sites are wanted.
PRUNE = ("transformer", "backbone", "all")
# The inner width (basic blocks) or widths (bottlenecks) of every block of a backbone.
Blocks = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Cfgs:
    """A width for every site of a detector.

    Attributes:
        encoder: `(attn, ffn)` for each encoder layer.
        decoder: `(self, cross, ffn)` for each decoder layer.
        backbone: `(conv1,)` for each basic block or `(conv1, conv2)` for each bottleneck; empty: dense.
        dense_backbone: the same of the dense model, where it is known; it makes no difference between two Cfgs.
        source: what messages call it: the flag or the file that it was given with; it makes no difference either.
    """

    encoder: tuple[tuple[int, int], ...]
    decoder: tuple[tuple[int, int, int], ...]
    backbone: Blocks = ()
    dense_backbone: Blocks = field(default=(), compare=False, repr=False)
    source: str = field(default="cfgs", compare=False, repr=False)

    def to_list(self) -> list[list[list[int]]]:
        """Nested lists of integers: the two published parts, and the backbone's where it is not dense."""
        parts = (self.encoder, self.decoder, *((self.backbone,) if self.backbone else ()))
        return [[list(layer) for layer in part] for part in parts]

    def __str__(self) -> str:
        return json.dumps(self.to_list())

    def widths(self, prune: str = "transformer") -> dict[str, int]:
        """Site name -> width, front to back, as `encoder.0.attn` ... `decoder.5.ffn`.

        Args:
            prune: `transformer`, `backbone` (`backbone.0.conv1`, `backbone.0.conv2` ...) or `all`. A dense backbone has
                sites where `dense_backbone` is known, as it is of every model's own cfgs.
        """
        parts = (
            ("backbone", self.backbone or self.dense_backbone, BACKBONE_KINDS),
            ("encoder", self.encoder, ENCODER_KINDS),
            ("decoder", self.decoder, DECODER_KINDS),
        )
        result = {}
        for part, layers, kinds in parts:
            if prune not in ("all", "backbone" if part == "backbone" else "transformer"):
                continue
            for index, layer in enumerate(layers):
                result.update({f"{part}.{index}.{kind}": width for kind, width in zip(kinds, layer, strict=False)})
        return result

    def replace(self, widths: dict[str, int]) -> "Cfgs":
        """A copy in which the named sites have other widths.

        Raises:
            ValueError: a name is no site's; of a dense backbone, only a model's own cfgs know the sites.
        """
        merged = {**self.widths("all"), **widths}
        if unknown := sorted(merged.keys() - self.widths("all").keys()):
            raise ValueError(f"{', '.join(unknown)}: not among the sites of {self}")
        encoder = tuple((merged[f"encoder.{i}.attn"], merged[f"encoder.{i}.ffn"]) for i in range(len(self.encoder)))
        decoder = tuple(
            (merged[f"decoder.{i}.self"], merged[f"decoder.{i}.cross"], merged[f"decoder.{i}.ffn"])
            for i in range(len(self.decoder))
        )
        backbone = tuple(
            tuple(merged[f"backbone.{i}.{kind}"] for kind in BACKBONE_KINDS[: len(block)])
            for i, block in enumerate(self.backbone or self.dense_backbone)
        )
        return replace(self, encoder=encoder, decoder=decoder, backbone=self._without_dense(backbone))

    def over(self, dense_backbone: Blocks) -> "Cfgs":
        """The same widths, of a model whose dense backbone is known; one that has all its channels is left out."""
        if self.dense_backbone == dense_backbone:
            return self
        known = replace(self, dense_backbone=dense_backbone)
        return replace(known, backbone=known._without_dense(self.backbone))

    def _without_dense(self, backbone: Blocks) -> Blocks:
        return () if backbone == self.dense_backbone else backbone


def site_words(site: str) -> str:
    """A site's name for messages: `encoder layer 0: attn`, `backbone block 3: conv1`."""
    part, index, kind = site.split(".")
    return f"{part} {_UNITS[part]} {index}: {kind}"


_UNITS = {"encoder": "layer", "decoder": "layer", "backbone": "block"}


def full_cfgs(enc_layers: int, dec_layers: int, hidden_dim: int, ffn_dim: int, backbone: Blocks = ()) -> Cfgs:
    """The widths of a dense model; `backbone` are its blocks' inner widths."""
    encoder, decoder = ((hidden_dim, ffn_dim),) * enc_layers, ((hidden_dim, hidden_dim, ffn_dim),) * dec_layers
    return Cfgs(encoder, decoder, dense_backbone=backbone)


def parse_cfgs(value: "str | Sequence[Any] | Cfgs", source: str = "--cfgs") -> Cfgs:
    """Read a width list from its text or nested lists. The text is read as JSON, never evaluated.

    Args:
        value: a Cfgs, nested lists, the text of one, or the words of a text that the shell took apart.
        source: what messages call it: the flag or the file that it was given with. A Cfgs knows it already.

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
                f"{source} is not a list: reading stops at character {where + 1}, near {text[where : where + 20]!r}; "
                f"expected {SHAPE}"
            ) from None
    if not isinstance(value, (list, tuple)) or len(value) not in (2, 3):
        found = f"{len(value)} parts" if isinstance(value, (list, tuple)) else shown(value)
        raise UserError(f"{source} has {found} where it needs 2 (encoder, decoder): {SHAPE}; {BACKBONE_SHAPE}")
    return Cfgs(
        tuple(_layer(each, source, "encoder", i, ENCODER_KINDS) for i, each in _part(value[0], source, "encoder")),
        tuple(_layer(each, source, "decoder", i, DECODER_KINDS) for i, each in _part(value[1], source, "decoder")),
        tuple(_block(each, source, i) for i, each in _part(value[2], source, "backbone")) if len(value) == 3 else (),
        source=source,
    )


def _part(value: Any, source: str, part: str) -> Iterator[tuple[int, Any]]:
    """The layers or blocks of a part, numbered."""
    if not isinstance(value, (list, tuple)) or not value:
        shape = BACKBONE_SHAPE if part == "backbone" else SHAPE
        raise UserError(
            f"{source}: the {part} part is {_text(value)}, expected a list with one entry per {_UNITS[part]}: {shape}"
        )
    return enumerate(value)


def _block(value: Any, source: str, index: int) -> tuple[int, ...]:
    """A backbone block's widths; how many there must be is the model's to say."""
    if not isinstance(value, (list, tuple)) or len(value) not in (1, 2):
        raise UserError(f"{source}: backbone block {index} is {_text(value)}, expected [conv1], or [conv1, conv2]")
    return tuple(_layer(value, source, "backbone", index, BACKBONE_KINDS[: len(value)]))


def _layer(value: Any, source: str, part: str, index: int, kinds: tuple[str, ...]) -> Any:
    place = f"{source}: {part} {_UNITS[part]} {index}"
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{place} is {_text(value)}, expected [{', '.join(kinds)}]")
    if len(value) != len(kinds):
        raise UserError(f"{place} has {len(value)} numbers ({_text(value)}), expected {len(kinds)}: {', '.join(kinds)}")
    for kind, width in zip(kinds, value, strict=True):
        COUNT.check(width, f"{place}: {kind}")
    return tuple(value)


def _text(value: Any) -> str:
    """A value for a message: a short list of numbers whole."""
    listed = isinstance(value, (list, tuple)) and len(value) <= 8
    return f"[{', '.join(map(shown, value))}]" if listed else shown(value)


def check_cfgs(cfgs: Cfgs, dense: Cfgs, heads: int, unit: int = 1) -> Cfgs:
    """Check that a width list fits a dense model, and return it with the dense backbone's widths.

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
            raise UserError(f"{cfgs.source} has {have} {part} layers, the model has {need}")
    _check_blocks(cfgs, dense.dense_backbone)
    cfgs = cfgs.over(dense.dense_backbone)
    full = dense.widths("all")
    for site, width in cfgs.widths("all").items():
        place = f"{cfgs.source}: {site_words(site)} width {width}"
        attention = site.endswith(("attn", "self", "cross"))
        if attention and unit > 1 and width % unit:
            raise UserError(f"{place} is not a multiple of the {unit} channels of a head, and heads leave whole here")
        if attention and unit == 1 and width % heads:
            raise UserError(f"{place} is not a multiple of the {heads} heads")
        if width > full[site]:
            implied = " (two parts mean a dense backbone)" if site.startswith("backbone") and not cfgs.backbone else ""
            raise UserError(f"{place} is wider than the dense model's {full[site]}{implied}")
    return cfgs


def _check_blocks(cfgs: Cfgs, dense: Blocks) -> None:
    if cfgs.backbone and len(cfgs.backbone) != len(dense):
        raise UserError(f"{cfgs.source} has {len(cfgs.backbone)} backbone blocks, the model has {len(dense)}")
    for index, (block, full) in enumerate(zip(cfgs.backbone, dense, strict=False)):
        if len(block) != len(full):
            raise UserError(
                f"{cfgs.source}: backbone block {index} has {len(block)} numbers ({list(block)}), the model's has "
                f"{len(full)}: {', '.join(BACKBONE_KINDS[: len(full)])}"
            )
