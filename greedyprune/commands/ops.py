"""`greedyprune ops`: which implementation of deformable attention runs, and why."""

from collections.abc import Sequence

from greedyprune.cli import Parser
from greedyprune.ops import __main__ as ops


def main(argv: Sequence[str] | None = None) -> int:
    """Say what `python -m greedyprune.ops` says."""
    Parser("Says which implementation of deformable attention runs on each device, and why.").parse_args(argv)
    return ops.main()
