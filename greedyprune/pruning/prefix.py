"""Run a detector from one of its layers on, so that what lies before a site is computed once for all its candidates."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from greedyprune.models.dn_detr import DNDETR, Features, Outputs, stages
from greedyprune.pruning.sites import Site


class Place(NamedTuple):
    """A place to go on from.

    Attributes:
        decoder: in the decoder.
        layer: the layer that runs next; the number of layers after the last one.
        ffn: its attention has run already.
    """

    decoder: bool
    layer: int
    ffn: bool = False

    def __str__(self) -> str:
        return f"{'decoder' if self.decoder else 'encoder'} layer {self.layer}{', its FFN' if self.ffn else ''}"


@dataclass(frozen=True)
class Prefix:
    """What a place gets, for one batch of images.

    Attributes:
        place: what runs next.
        tokens: `[B, M, dim]` what goes on in the encoder, or the memory when a decoder layer runs next.
        pos: `[B, M, dim]`.
        mask: `[B, 1, 1, M]` bool or None.
        content: `[B, Q, dim]` queries that the decoder goes on with.
        reference: `[B, Q, 4]` their boxes.
        hidden: normalised content after each decoder layer that has run.
        references: boxes that each of those layers started from.
    """

    place: Place
    tokens: Tensor
    pos: Tensor
    mask: Tensor | None
    content: Tensor
    reference: Tensor
    hidden: tuple[Tensor, ...] = ()
    references: tuple[Tensor, ...] = ()

    @property
    def images(self) -> int:
        return len(self.tokens)


def begin(model: DNDETR, features: Features) -> Prefix:
    """Before the first encoder layer."""
    content, reference = model.queries(len(features.tokens))
    return Prefix(Place(False, 0), features.tokens, features.pos, features.mask, content, reference)


def advance(model: DNDETR, prefix: Prefix, place: Place) -> Prefix:
    """The same batch at a later place of the model.

    Raises:
        ValueError: the place lies before the prefix.
    """
    if place < prefix.place:
        raise ValueError(f"{place} lies before {prefix.place}")
    while prefix.place < place:
        prefix = _decode_half(model, prefix) if prefix.place.decoder else _encode_half(model, prefix)
    return prefix


def site_place(site: Site) -> Place:
    """The last place from which the site is still to come."""
    return Place(site.part == "decoder", site.layer, site.kind == "ffn")


def _encode_half(model: DNDETR, prefix: Prefix) -> Prefix:
    encoder, (_, layer, ffn) = model.transformer.encoder, prefix.place
    if layer == len(encoder.layers):
        return replace(prefix, place=Place(True, 0))
    if not ffn:
        tokens = encoder.attend(layer, prefix.tokens, prefix.pos, prefix.mask)
        return replace(prefix, place=Place(False, layer, True), tokens=tokens)
    return replace(prefix, place=Place(False, layer + 1), tokens=encoder.feed(layer, prefix.tokens))


def _decode_half(model: DNDETR, prefix: Prefix) -> Prefix:
    decoder, (_, layer, ffn), reference = model.transformer.decoder, prefix.place, prefix.reference
    if not ffn:
        content = decoder.attend(layer, prefix.content, reference, prefix.tokens, prefix.pos, None, prefix.mask)
        return replace(prefix, place=Place(True, layer, True), content=content)
    content = decoder.feed(layer, prefix.content)
    return replace(
        prefix,
        place=Place(True, layer + 1),
        content=content,
        reference=reference if layer + 1 == len(decoder.layers) else decoder.refine(content, reference),
        hidden=(*prefix.hidden, decoder.norm(content)),
        references=(*prefix.references, reference),
    )


def finish(model: DNDETR, prefix: Prefix, last_only: bool = False) -> Outputs:
    """The detector's answer for the batch; with `last_only` without `aux_outputs`."""
    end = advance(model, prefix, Place(True, len(model.transformer.decoder.layers)))
    first = -1 if last_only else 0
    with torch.no_grad():
        return stages(*model.predict(list(end.hidden[first:]), list(end.references[first:])))
