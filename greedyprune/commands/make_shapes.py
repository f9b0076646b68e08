"""`tools/make_shapes.py`: write the synthetic detection set `shapes`."""

from collections.abc import Sequence

from greedyprune.cli import Parser
from greedyprune.data.folders import SPLITS
from greedyprune.data.shapes_coco import make_shapes
from greedyprune.data.summary import summarize
from greedyprune.ranges import IMAGES, PROCESSES, SEED, processors
from greedyprune.text import file_path


def main(argv: Sequence[str] | None = None) -> int:
    """Write the set, and say what it holds."""
    parser = Parser("Write the synthetic detection set `shapes` in COCO's layout. The same seed gives the same bytes.")
    parser.add_argument("folder", type=file_path, metavar="DIR", help="not there yet, or empty")
    parser.add_argument("--train_images", type=IMAGES.parse, default=2000, metavar="N", help="training images")
    parser.add_argument("--val_images", type=IMAGES.parse, default=500, metavar="N", help="validation images")
    parser.add_argument("--seed", type=SEED.parse, default=0, metavar="N", help="of everything random")
    parser.add_argument(
        "--workers", type=PROCESSES.parse, default=processors(), metavar="N", help="processes that draw"
    )
    args = parser.parse_args(argv)
    folder = make_shapes(args.folder, args.train_images, args.val_images, args.seed, args.workers)
    for split in SPLITS:
        print(*summarize(folder, split).lines(split), sep="\n")
    print(f"written to {folder}")
    return 0
