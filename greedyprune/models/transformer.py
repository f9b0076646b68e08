"""Encoder and decoder as every detector has them; what a layer gets is up to the kind of detector."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from greedyprune.boxes import EPS, inverse_sigmoid
from greedyprune.models.deformable_attention import DeformableAttention
from greedyprune.models.features import Features, Queries
from greedyprune.models.layers import present


class Encoder(nn.Module):
    """Layers over image tokens.

    Args:
        layers: the encoder layers, `Skipped` ones among them.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, features: Features) -> Tensor:
        """The features' tokens -> memory `[B, M, dim]`."""
        raise NotImplementedError


class Decoded(NamedTuple):
    """Result of a decoder layer.

    Attributes:
        layer: its number.
        states: `[B, N, dim]` content of the queries, as the heads read it.
        reference: `[B, N, 4 or 2]` box or point that the layer's boxes are counted from.
    """

    layer: int
    states: Tensor
    reference: Tensor


class Decoder(nn.Module):
    """Layers over queries, each of which looks around a reference box or point.

    Args:
        layers: the decoder layers; those that are `Skipped` neither move references nor answer.
        eps: see `inverse_sigmoid`.

    Attributes:
        constant_start: what the first layer makes of its queries alone is there as constants; see `deployed`.
    """

    constant_start = False

    def __init__(self, layers: Sequence[nn.Module], eps: float = EPS) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.eps = eps

    @property
    def answering(self) -> tuple[int, ...]:
        """Numbers of the layers that answer, front to back."""
        return tuple(index for index, _ in present(self.layers))

    def box_head(self, index: int) -> nn.Module:
        """The head that makes boxes of the content of layer `index`."""
        raise NotImplementedError

    def refine(self, index: int, content: Tensor, reference: Tensor) -> Tensor:
        """Boxes `[..., 4]` that the head of layer `index` makes of `content` around a box or point, in float32."""
        head = self.box_head(index)
        dtype = next((each.dtype for each in head.parameters()), torch.float32)  # a constant head has none
        kind = content.device.type if content.device.type != "meta" else "cpu"  # there is no autocast of shapes alone
        with torch.autocast(kind, enabled=False):
            delta = head(content.to(dtype)).float()
            start = inverse_sigmoid(reference.float(), self.eps)
            return (delta + F.pad(start, (0, 4 - start.shape[-1]))).sigmoid()  # a point has no size to start from

    def forward(self, queries: Queries, memory: Tensor, features: Features, last_only: bool = False) -> list[Decoded]:
        """All layers. A layer's reference is constant to it: only its boxes may take gradients to the layer before.

        Args:
            queries: content and references to start from.
            memory: `[B, M, dim]`.
            features: where the memory's tokens lie.
            last_only: only the last layer answers.

        Returns:
            Results of the layers that answer, front to back.
        """
        raise NotImplementedError


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
        self, features: Features, ask: Callable[[Tensor], Queries], last_only: bool = False
    ) -> tuple[Queries, list[Decoded]]:
        """Image tokens to queries and what the decoder layers make of them.

        Args:
            features: the images.
            ask: makes the queries, from the memory `[B, M, dim]`.
            last_only: see `Decoder.forward`.
        """
        memory = self.encoder(features)
        queries = ask(memory)
        return queries, self.decoder(queries, memory, features, last_only)
