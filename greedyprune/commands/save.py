"""`tools/save.py`: a checkpoint written anew, one of many zeros as a small file that every tool loads."""

import argparse
import sys
from collections.abc import Sequence

from greedyprune import api
from greedyprune.cli import DEMO_MODEL, Parser
from greedyprune.errors import UserError
from greedyprune.text import file_path, printable


def parser() -> argparse.ArgumentParser:
    """The options of `tools/save.py`."""
    parser = Parser(
        "Write a checkpoint anew. With --sparse weights of many zeros, as pruning single weights leaves them, are kept "
        "as a bit mask and the values that are not zero; every tool reads such a file as any other."
    )
    parser.add_argument(
        "--resume",
        type=file_path,
        default=DEMO_MODEL,
        metavar="PATH",
        help="checkpoint, dense or sparse (default: the embedded demo detector)",
    )
    parser.add_argument("--sparse", action="store_true", help="keep weights of many zeros as bit mask and values")
    parser.add_argument(
        "--values",
        choices=("float32", "float16"),
        help="with --sparse: what values are kept as (default: float32, which loses nothing)",
    )
    parser.add_argument(
        "--output", type=file_path, required=True, metavar="PATH", help="checkpoint to write; may be that of --resume"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write as the arguments say.

    Raises:
        UserError: the checkpoint cannot be used, or a value is too large for float16; nothing is written then.
    """
    args = parser().parse_args(argv)
    if args.values is not None and not args.sparse:
        raise UserError("--values says how --sparse keeps values, which is not given; give both, or leave it out")
    if args.output.suffix != ".safetensors":
        raise UserError(f"--output {args.output} must end in .safetensors")
    sizes = api.save(api.load(args.resume), args.output, sparse=args.sparse, half=args.values == "float16")
    print(f"saved {printable(str(args.output), None)}", file=sys.stderr)
    if sizes is None:
        print(f"dense file: {args.output.stat().st_size:,} bytes")
        return 0
    parts = {"dense file": sizes.dense, "zip of the dense file": sizes.zipped, "sparse file": sizes.packed}
    for label, size in parts.items():
        print(f"{label}: {size:,} bytes ({sizes.dense / size:.2f} x)")
    return 0
