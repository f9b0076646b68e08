"""Encoder and decoder as every detector has them; what a layer gets is up to the kind of detector."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from greedyprune.models.deformable_attention import DeformableAttention
from greedyprune.models.features import Features, Queries
from greedyprune.models.layers import MLP, Layer

EPS = 1e-3


def inverse_sigmoid(x: Tensor, eps: float = EPS) -> Tensor:
    """log(x / (1 - x)) with both parts kept above `eps`: 1e-3 in DAB-DETR, 1e-5 in Deformable DETR."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


class Encoder(nn.Module):
    """Layers over image tokens.

    Args:
        layers: the encoder layers.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def attend(self, index: int, x: Tensor, features: Features) -> Tensor:
        """The attention half of layer `index`: `[B, M, dim]` -> `[B, M, dim]`."""
        raise NotImplementedError

    def feed(self, index: int, x: Tensor) -> Tensor:
        """The FFN half of layer `index`, with what follows the last one: `[B, M, dim]` -> `[B, M, dim]`."""
        return cast(Layer, self.layers[index]).feed(x)

    def forward(self, features: Features) -> Tensor:
        """All layers: the features' tokens -> memory `[B, M, dim]`."""
        x = features.tokens
        for index in range(len(self.layers)):
            x = self.feed(index, self.attend(index, x, features))
        return x


class Decoder(nn.Module):
    """Layers over queries, each of which looks around a reference box or point.

    Args:
        layers: the decoder layers.
        norm: what a layer's content goes through before the heads.
        eps: see `inverse_sigmoid`.
    """

    def __init__(self, layers: Sequence[Layer], norm: nn.Module, eps: float = EPS) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.eps = eps

    def attend(
        self, index: int, content: Tensor, reference: Tensor, memory: Tensor, features: Features, queries: Queries
    ) -> Tensor:
        """The attention half of layer `index`: the queries' content `[B, N, dim]` around `reference` -> `[B, N, dim]`.

        Args:
            index: the layer.
            content: `[B, N, dim]`.
            reference: `[B, N, 4]` or `[B, N, 2]`, that of this layer.
            memory: `[B, M, dim]`.
            features: where the memory's tokens lie.
            queries: what the decoder started from.
        """
        raise NotImplementedError

    def feed(self, index: int, content: Tensor) -> Tensor:
        """The FFN half of layer `index`: `[B, N, dim]` -> `[B, N, dim]`."""
        return cast(Layer, self.layers[index]).feed(content)

    def box_head(self, index: int) -> MLP:
        """The head that makes boxes of what layer `index` gives."""
        raise NotImplementedError

    def follow(self, index: int, content: Tensor, reference: Tensor) -> Tensor:
        """The reference of the layer after layer `index`."""
        raise NotImplementedError

    def refine(self, index: int, content: Tensor, reference: Tensor) -> Tensor:
        """Boxes `[..., 4]` that layer `index`'s head makes of `content` around a box or point; always in float32."""
        head = self.box_head(index)
        dtype = next(head.parameters()).dtype
        kind = content.device.type if content.device.type != "meta" else "cpu"  # there is no autocast of shapes alone
        with torch.autocast(kind, enabled=False):
            delta = head(content.to(dtype)).float()
            start = inverse_sigmoid(reference.float(), self.eps)
            return (delta + F.pad(start, (0, 4 - start.shape[-1]))).sigmoid()  # a point has no size to start from

    def forward(
        self,
        content: Tensor,
        reference: Tensor,
        memory: Tensor,
        features: Features,
        queries: Queries,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """All layers.

        Returns:
            Per layer the normalised content `[B, N, dim]`, and the reference that it started from. What the next
            layer computes from its reference never reaches the layer before it.
        """
        hidden, references = [], [reference]
        for index in range(len(self.layers)):
            content = self.feed(index, self.attend(index, content, reference, memory, features, queries))
            hidden.append(self.norm(content))
            if index + 1 < len(self.layers):
                references.append(self.follow(index, content, reference))
                reference = references[-1].detach()
        return hidden, references


class Transformer(nn.Module):
    """Encoder and decoder.

    Args:
        encoder: over image tokens.
        decoder: over queries.
        dim: channels of the tokens.
        levels: feature maps that are told apart by an embedding; 0: there is one, without an embedding.
    """

    level_embed: nn.Parameter | None

    def __init__(self, encoder: Encoder, decoder: Decoder, dim: int, levels: int = 0) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.register_parameter("level_embed", nn.Parameter(torch.empty(levels, dim)) if levels else None)

    def start(self) -> None:
        """Random weights, as published."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.look_around()
        if self.level_embed is not None:
            nn.init.normal_(self.level_embed)

    def forward(
        self, features: Features, ask: Callable[[Tensor], Queries]
    ) -> tuple[Queries, list[Tensor], list[Tensor]]:
        """Image tokens to the decoder's hidden states and references (see `Decoder.forward`).

        Args:
            features: the images.
            ask: makes the queries, from the memory `[B, M, dim]`.

        Returns:
            The queries, the hidden states and the references.
        """
        memory = self.encoder(features)
        queries = ask(memory)
        return queries, *self.decoder(queries.content, queries.reference, memory, features, queries)
