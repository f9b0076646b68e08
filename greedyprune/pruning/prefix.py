"""Run a detector from one of its layers on, so that what lies before a site is computed once for all its candidates."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from greedyprune.models.detector import Detector, Outputs, stages
from greedyprune.models.features import Features, Queries


@dataclass(frozen=True)
class Prefix:
    """What a layer gets, for one batch of images.

    Attributes:
        part: `encoder` or `decoder`.
        layer: the layer that runs next.
        tokens: `[B, M, dim]` input of that encoder layer, or the memory when the next layer is a decoder layer.
        features: what the first encoder layer got.
        queries: what the first decoder layer got; None before it.
        content: `[B, Q, dim]` content that the decoder goes on with; None before it.
        reference: `[B, Q, 4]` or `[B, Q, 2]` references that it goes on with; None before it.
        hidden: normalised content after each decoder layer that has run.
        references: references that each of those layers started from.
    """

    part: str
    layer: int
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
    def pos(self) -> Tensor:
        """`[B, M, dim]` position embedding of the tokens."""
        return self.features.pos

    @property
    def mask(self) -> Tensor | None:
        """`[B, 1, 1, M]` bool, True where there is image, or None."""
        return self.features.mask


def begin(model: Detector, features: Features) -> Prefix:
    """Before the first encoder layer."""
    return Prefix("encoder", 0, features.tokens, features)


def advance(model: Detector, prefix: Prefix, part: str, layer: int) -> Prefix:
    """The same batch at a later layer of the model.

    Raises:
        ValueError: the layer lies before the prefix.
    """
    if (prefix.part, prefix.layer) == (part, layer):
        return prefix
    if prefix.part == "decoder" and (part == "encoder" or layer < prefix.layer):
        raise ValueError(f"{part} layer {layer} lies before {prefix.part} layer {prefix.layer}")
    tokens, encoder, decoder = prefix.tokens, model.transformer.encoder, model.transformer.decoder
    if prefix.part == "encoder":
        last = layer if part == "encoder" else len(encoder.layers)
        for index in range(prefix.layer, last):
            tokens = encoder.step(index, tokens, prefix.features)
        if part == "encoder":
            return replace(prefix, layer=layer, tokens=tokens)
        queries = model.queries(prefix.features, tokens)
        prefix = Prefix("decoder", 0, tokens, prefix.features, queries, queries.content, queries.reference)
    queries, content, reference = _at_decoder(prefix)
    hidden, references = list(prefix.hidden), list(prefix.references)
    for index in range(prefix.layer, layer):
        references.append(reference)
        content = decoder.step(index, content, reference, tokens, prefix.features, queries)
        hidden.append(decoder.norm(content))
        reference = decoder.follow(index, content, reference)
    return replace(
        prefix,
        layer=layer,
        content=content,
        reference=reference,
        hidden=tuple(hidden),
        references=tuple(references),
    )


def finish(model: Detector, prefix: Prefix, last_only: bool = False) -> Outputs:
    """The detector's answer for the batch; with `last_only` without `aux_outputs` and `enc_outputs`."""
    at_decoder = prefix if prefix.part == "decoder" else advance(model, prefix, "decoder", 0)
    queries, content, reference = _at_decoder(at_decoder)
    hidden, references = model.transformer.decoder(
        content, reference, at_decoder.tokens, at_decoder.features, queries, start=at_decoder.layer
    )
    hidden, references = [*at_decoder.hidden, *hidden], [*at_decoder.references, *references]
    if last_only:
        hidden, references = hidden[-1:], references[-1:]
    with torch.no_grad():
        return stages(*model.predict(hidden, references), None if last_only else queries.proposals)


def _at_decoder(prefix: Prefix) -> tuple[Queries, Tensor, Tensor]:
    assert prefix.queries is not None
    assert prefix.content is not None
    assert prefix.reference is not None
    return prefix.queries, prefix.content, prefix.reference
