"""Multi-scale deformable attention."""

from greedyprune.ops.twin import ms_deform_attn_twin as ms_deform_attn

__all__ = ["ms_deform_attn"]
