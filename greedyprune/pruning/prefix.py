"""Run a detector from one of its layers on, so that what lies before a site is computed once for all its candidates."""

from dataclasses import dataclass

import torch
from torch import Tensor

from greedyprune.models.dn_detr import DNDETR, Features, Outputs, stages


@dataclass(frozen=True)
class Prefix:
    """What a layer gets, for one batch of images.

    Attributes:
        part: `encoder` or `decoder`.
        layer: the layer that runs next.
        tokens: `[B, M, dim]` input of that encoder layer, or the memory when the next layer is a decoder layer.
        pos: `[B, M, dim]`.
        mask: `[B, 1, 1, M]` bool or None.
        content: `[B, Q, dim]` queries that the decoder goes on with.
        reference: `[B, Q, 4]` their boxes.
        hidden: normalised content after each decoder layer that has run.
        references: boxes that each of those layers started from.
    """

    part: str
    layer: int
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
    return Prefix("encoder", 0, features.tokens, features.pos, features.mask, content, reference)


def advance(model: DNDETR, prefix: Prefix, part: str, layer: int) -> Prefix:
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
            tokens = encoder.step(index, tokens, prefix.pos, prefix.mask)
        if part == "encoder":
            return Prefix(part, layer, tokens, prefix.pos, prefix.mask, prefix.content, prefix.reference)
    content, reference = prefix.content, prefix.reference
    hidden, references = list(prefix.hidden), list(prefix.references)
    for index in range(0 if prefix.part == "encoder" else prefix.layer, layer):
        references.append(reference)
        content = decoder.step(index, content, reference, tokens, prefix.pos, None, prefix.mask)
        hidden.append(decoder.norm(content))
        reference = decoder.refine(content, reference)
    return Prefix(
        "decoder", layer, tokens, prefix.pos, prefix.mask, content, reference, tuple(hidden), tuple(references)
    )


def finish(model: DNDETR, prefix: Prefix, last_only: bool = False) -> Outputs:
    """The detector's answer for the batch; with `last_only` without `aux_outputs`."""
    at_decoder = prefix if prefix.part == "decoder" else advance(model, prefix, "decoder", 0)
    hidden, references = model.transformer.decoder(
        at_decoder.content,
        at_decoder.reference,
        at_decoder.tokens,
        at_decoder.pos,
        None,
        at_decoder.mask,
        start=at_decoder.layer,
    )
    hidden, references = [*at_decoder.hidden, *hidden], [*at_decoder.references, *references]
    if last_only:
        hidden, references = hidden[-1:], references[-1:]
    with torch.no_grad():
        return stages(*model.predict(hidden, references))
