"""Feature maps of several sizes as one row of tokens (Deformable DETR, section 4.1 and appendix A.2)."""

import torch
from torch import Tensor, nn

from greedyprune.models.features import Features, Levels
from greedyprune.models.options import NORM_GROUPS
from greedyprune.models.position import ImagePositions


class LevelProjections(nn.ModuleList):
    """The backbone's feature maps and some coarser ones, all with the Transformer's channels.

    Args:
        channels: channels of the backbone's maps, from the finest to the coarsest.
        dim: channels of the result.
        levels: maps of the result; the first beyond the backbone's is made of its last one, each further one of the
            one before it, by a convolution of stride 2.
    """

    def __init__(self, channels: tuple[int, ...], dim: int, levels: int) -> None:
        same = [_projection(nn.Conv2d(each, dim, 1)) for each in channels]
        coarser = [
            _projection(nn.Conv2d(dim if index else channels[-1], dim, 3, stride=2, padding=1))
            for index in range(levels - len(channels))
        ]
        super().__init__([*same, *coarser])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps `[B, channels, h, w]` of the backbone -> `[B, dim, h, w]` of every level."""
        result = [project(level) for project, level in zip(self, maps, strict=False)]
        for index in range(len(maps), len(self)):
            result.append(self[index](maps[-1] if index == len(maps) else result[-1]))
        return result


def _projection(convolution: nn.Conv2d) -> nn.Sequential:
    nn.init.xavier_uniform_(convolution.weight)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.GroupNorm(NORM_GROUPS, convolution.out_channels))


def pyramid_features(
    maps: list[Tensor], paddings: list[Tensor | None], level_embed: Tensor, positions: ImagePositions
) -> Features:
    """Input of a deformable encoder for a batch of images.

    Args:
        maps: `[B, dim, h, w]` of every level.
        paddings: `[B, h, w]` of every level, True where there is padding; None: there is none.
        level_embed: `[L, dim]` added to the position embedding of every level.
        positions: position embedding of a level's cells.
    """
    tokens, embedded, padded, valid, centres = [], [], [], [], []
    for level, known, embed in zip(maps, paddings, level_embed, strict=True):
        batch, _, height, width = level.shape
        padding = torch.zeros(batch, height, width, dtype=torch.bool, device=level.device) if known is None else known
        tokens.append(level.flatten(2).transpose(1, 2))  # [B, h * w, dim]
        embedded.append(positions(padding).to(level.dtype) + embed)
        padded.append(padding.flatten(1))
        sides = torch.stack(((~padding[:, 0]).sum(1), (~padding[:, :, 0]).sum(1)), dim=1)  # [B, 2] cells along x, y
        valid.append(sides / torch.tensor([width, height], device=level.device))
        centres.append(_centres(height, width, level.device) / sides[:, None])
    shown = None if paddings[0] is None else ~torch.cat(padded, dim=1)  # [B, M]
    shapes = tuple((level.shape[-2], level.shape[-1]) for level in maps)
    levels = Levels(shapes, torch.stack(valid, dim=1), torch.cat(centres, dim=1), shown)
    keys = None if shown is None else shown[:, None, None]
    return Features(torch.cat(tokens, dim=1), torch.cat(embedded, dim=1), keys, levels)


def _centres(height: int, width: int, device: torch.device) -> Tensor:
    """`[h * w, 2]` centre (x, y) of every cell, in cells."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack((x, y), dim=-1).flatten(0, 1) + 0.5
