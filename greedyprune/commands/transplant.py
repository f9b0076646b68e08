"""`tools/transplant.py`: from a search, a published search-time checkpoint or a width list to a slim checkpoint."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from greedyprune.cfgs import check_cfgs, parse_cfgs
from greedyprune.cli import DEMO_MODEL, Parser
from greedyprune.commands.prune import weights_hash
from greedyprune.errors import UserError
from greedyprune.models import Detector, load_model, read_checkpoint, save_checkpoint
from greedyprune.models.published import search_masks
from greedyprune.pruning.kept import KeptSets, kept_by_magnitude, kept_from_masks
from greedyprune.pruning.transplant import transplant
from greedyprune.search.record import growths
from greedyprune.search.study import load_result

DEFAULT_DB = Path("runs/prune/prune.db")


def parser() -> argparse.ArgumentParser:
    """The options of `tools/transplant.py`."""
    parser = Parser(
        "Move the surviving weights into a slim model and save it as a checkpoint that every tool loads. What survives "
        "comes from a finished search (--db), from a published search-time checkpoint (--resume), or, where there are "
        "only widths (--cfgs), from the weights' magnitudes."
    )
    parser.add_argument(
        "--resume",
        type=Path,
        default=DEMO_MODEL,
        metavar="PATH",
        help="dense checkpoint, or a published search-time one (default: the embedded demo detector)",
    )
    parser.add_argument("--db", metavar="URL", help=f"database of the search (default: {DEFAULT_DB})")
    parser.add_argument("--study", metavar="NAME", help="name of the study (default: the only one in the database)")
    parser.add_argument(
        "--cfgs", nargs="+", metavar="WIDTHS", help="width list, quoted or as several words: take channels by magnitude"
    )
    parser.add_argument(
        "--whole_heads", action="store_true", help="with --cfgs: attention leaves head by head (a study says it itself)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("slim.safetensors"), metavar="PATH", help="the slim checkpoint"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Transplant as the arguments say.

    Raises:
        UserError: the checkpoint, the study or the widths cannot be used.
    """
    args = parser().parse_args(argv)
    if args.cfgs is not None and args.db is not None:
        raise UserError("--cfgs and --db both say what survives; give one of them")
    if args.output.suffix != ".safetensors":
        raise UserError(f"--output {args.output} must end in .safetensors")
    if args.whole_heads and args.cfgs is None:
        raise UserError("--whole_heads is for --cfgs; a study or a search-time checkpoint says itself how heads leave")
    model, kept = _survivors(args)
    slim = transplant(model, kept)
    save_checkpoint(slim, args.output)
    for part, pair in (("Transformer", (model.transformer, slim.transformer)), ("whole model", (model, slim))):
        before, after = (sum(p.numel() for p in each.parameters()) for each in pair)
        print(f"{part}: {before:,} -> {after:,} parameters ({after / before - 1:+.1%})", file=sys.stderr)
    print(f"saved {args.output}; its widths are", file=sys.stderr)
    print(slim.cfgs)
    return 0


def _survivors(args: argparse.Namespace) -> tuple[Detector, KeptSets]:
    """The dense model and what is kept of it."""
    if args.cfgs is not None:
        overrides: dict[str, Any] = {"whole_heads": True} if args.whole_heads else {}
        model = load_model(args.resume, **overrides)
        cfgs = check_cfgs(parse_cfgs(args.cfgs), model.cfgs, model.options.heads, model.options.unit)
        return model, kept_by_magnitude(model, cfgs)
    model = load_model(args.resume)
    masks = {} if args.db else search_masks(read_checkpoint(args.resume)[0])
    if masks:
        kept, exchanged = kept_from_masks(model, masks)
        print(
            f"{len(kept)} search masks; {exchanged} channels exchanged so that heads keep equal numbers",
            file=sys.stderr,
        )
        return model, kept
    return _searched(args, model)


def _searched(args: argparse.Namespace, model: Detector) -> tuple[Detector, KeptSets]:
    """The kept sets of a finished study, if it searched this very model, and the model as it was searched."""
    if args.db is None and not DEFAULT_DB.is_file():
        raise UserError(f"there is no {DEFAULT_DB}; search first (tools/prune_greedy.py), or give --db or --cfgs")
    settings, records, result = load_result(args.db or str(DEFAULT_DB), args.study)
    if result is None:
        done = sum(growth.done for growth in growths(records))
        raise UserError(f"the search is not finished ({done} sites are done): run its command again until it is")
    if settings.get("weights") != weights_hash(model):
        raise UserError(f"the study searched other weights than {args.resume}; give the dense checkpoint it ran on")
    whole_heads = settings.get("whole_heads", False)
    if whole_heads != model.options.whole_heads:
        model = load_model(args.resume, whole_heads=whole_heads)
    return model, {growth.site: growth.kept for growth in growths(records) if growth.done}
