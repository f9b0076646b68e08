"""Run a detector from one of its layers on, so that what lies before a site is computed once for all its candidates."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from greedyprune.models.detector import Detector, Outputs, stages
from greedyprune.models.features import Features, Queries
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
        features: what the first encoder layer got.
        queries: what the first decoder layer got; None before it.
        content: `[B, Q, dim]` content that the decoder goes on with; None before it.
        reference: `[B, Q, 4]` or `[B, Q, 2]` references that it goes on with; None before it.
        hidden: normalised content after each decoder layer that has run.
        references: references that each of those layers started from.
    """

    place: Place
    tokens: Tensor
    features: Features
    queries: Queries | None = None
    content: Tensor | None = None
    reference: Tensor | None = None
    hidden: tuple[Tensor, ...] = ()
    references: tuple[Tensor, ...] = ()

    @property
    def images(self) -> int:
        return len(self.tokens)

    @property
    def mask(self) -> Tensor | None:
        """`[B, 1, 1, M]` bool, True where there is image, or None."""
        return self.features.mask


def begin(features: Features) -> Prefix:
    """Before the first encoder layer."""
    return Prefix(Place(False, 0), features.tokens, features)


def advance(model: Detector, prefix: Prefix, place: Place) -> Prefix:
    """The same batch at a later place of the model.

    Raises:
        ValueError: the place lies before the prefix.
    """
    if place < prefix.place:
        raise ValueError(f"{place} lies before {prefix.place}")
    while prefix.place < place:
        prefix = _decode_half(model, prefix) if prefix.place.decoder else _encode_half(model, prefix)
    return prefix


def finish(model: Detector, prefix: Prefix, last_only: bool = False) -> Outputs:
    """The detector's answer for the batch; with `last_only` without `aux_outputs` and `enc_outputs`."""
    end = advance(model, prefix, Place(True, len(model.transformer.decoder.layers)))
    first = -1 if last_only else 0
    proposals = end.queries.proposals if end.queries is not None and not last_only else None
    return stages(*model.predict(list(end.hidden[first:]), list(end.references[first:])), proposals)


def asked_as(prefix: Prefix, other: Prefix) -> Prefix:
    """Before the decoder, with the queries of another model, wherever that is; a second stage chooses its own."""
    queries = other.queries
    assert queries is not None
    return replace(prefix, queries=queries, content=queries.content, reference=queries.reference)


def site_place(site: Site) -> Place:
    """The last place from which the site is still to come.

    Raises:
        ValueError: a backbone site, which no place comes before.
    """
    if site.part == "backbone":
        raise ValueError(f"{site.name} lies before the Transformer, where no prefix can start")
    return Place(site.part == "decoder", site.layer, site.kind == "ffn")


def _encode_half(model: Detector, prefix: Prefix) -> Prefix:
    encoder, (_, layer, ffn) = model.transformer.encoder, prefix.place
    if layer == len(encoder.layers):
        queries = model.queries(prefix.features, prefix.tokens)
        return replace(
            prefix, place=Place(True, 0), queries=queries, content=queries.content, reference=queries.reference
        )
    if not ffn:
        tokens = encoder.attend(layer, prefix.tokens, prefix.features)
        return replace(prefix, place=Place(False, layer, True), tokens=tokens)
    return replace(prefix, place=Place(False, layer + 1), tokens=encoder.feed(layer, prefix.tokens))


def _decode_half(model: Detector, prefix: Prefix) -> Prefix:
    decoder, (_, layer, ffn) = model.transformer.decoder, prefix.place
    queries, content, reference = prefix.queries, prefix.content, prefix.reference
    assert queries is not None
    assert content is not None
    assert reference is not None
    if not ffn:
        content = decoder.attend(layer, content, reference, prefix.tokens, prefix.features, queries)
        return replace(prefix, place=Place(True, layer, True), content=content)
    content = decoder.feed(layer, content)
    return replace(
        prefix,
        place=Place(True, layer + 1),
        content=content,
        reference=reference if layer + 1 == len(decoder.layers) else decoder.follow(layer, content, reference),
        hidden=(*prefix.hidden, decoder.norm(content)),
        references=(*prefix.references, reference),
    )
