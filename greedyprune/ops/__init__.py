"""Multi-scale deformable attention: `ms_deform_attn`, on compiled kernels where they are built.

`python -m greedyprune.ops` says which implementation runs and why. The environment variable GREEDYPRUNE_OPS=off keeps
to pure PyTorch.
"""

from greedyprune.ops.attention import ms_deform_attn
from greedyprune.ops.twin import ms_deform_attn_twin

__all__ = ["ms_deform_attn", "ms_deform_attn_twin"]
