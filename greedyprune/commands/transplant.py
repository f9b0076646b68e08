"""`tools/transplant.py`: from a search, a published search-time checkpoint or a width list to a slim checkpoint."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from greedyprune.cfgs import check_cfgs, parse_cfgs
from greedyprune.cli import (
    DEMO_MODEL,
    Parser,
    add_cache_argument,
    add_device_arguments,
    open_device,
)
from greedyprune.commands.calibration import CUT_SETTINGS, open_cutter, scoring_ids
from greedyprune.commands.datasets import open_dataset
from greedyprune.commands.needs import Need, Needs, check_needs, parse_given
from greedyprune.commands.prune import weights_hash
from greedyprune.data.coco import CocoDetection
from greedyprune.errors import UserError
from greedyprune.evaluation.predict import autocast
from greedyprune.models import Detector, load_model, read_checkpoint, save_checkpoint
from greedyprune.models.published import search_masks
from greedyprune.pruning.kept import kept_by_magnitude, kept_from_masks
from greedyprune.pruning.schedule import SCHEDULES, order_sites
from greedyprune.pruning.sites import list_sites
from greedyprune.pruning.transplant import transplant
from greedyprune.ranges import COUNT_OR_NONE, SHARE
from greedyprune.search.display import ProposalDisplay
from greedyprune.search.images import Room
from greedyprune.search.loop import check_growths, kept_so_far
from greedyprune.search.record import Proposal, Record
from greedyprune.search.result import check_result
from greedyprune.search.steps import best_record, check_proposals, share_of
from greedyprune.search.stored import REMEDY, check_sites, check_values
from greedyprune.search.study import load_result
from greedyprune.text import file_path, plain_text

DEFAULT_DB = Path("runs/prune/prune.db")
SETTINGS = {"schedule": ("global", *SCHEDULES), "weights": str, "whole_heads": bool}  # of every study
_NEEDS: Needs = {
    "whole_heads": (Need("it is for --cfgs, everything else says itself how heads leave", lambda args: args.cfgs),)
}
_SOURCES = {"cfgs": "--cfgs gives the widths", "masks": "a published search-time checkpoint says itself what survives"}


def parser() -> argparse.ArgumentParser:
    """The options of `tools/transplant.py`."""
    parser = Parser(
        "Move the surviving weights into a slim model and save it as a checkpoint that every tool loads. What survives "
        "comes from a finished search (--db), from a published search-time checkpoint (--resume), or, where there are "
        "only widths (--cfgs), from the weights' magnitudes."
    )
    parser.add_argument(
        "--resume",
        type=file_path,
        default=DEMO_MODEL,
        metavar="PATH",
        help="dense checkpoint, or a published search-time one (default: the embedded demo detector)",
    )
    parser.add_argument(
        "--key", type=plain_text, metavar="NAME", help="which set of weights in --resume (default: the only one)"
    )
    parser.add_argument("--db", type=plain_text, metavar="URL", help=f"database of the search (default: {DEFAULT_DB})")
    parser.add_argument(
        "--study", type=plain_text, metavar="NAME", help="name of the study (default: the only one in the database)"
    )
    parser.add_argument(
        "--cfgs", nargs="+", metavar="WIDTHS", help="width list, quoted or as several words: take channels by magnitude"
    )
    parser.add_argument(
        "--whole_heads", action="store_true", help="with --cfgs: attention leaves head by head (a study says it itself)"
    )
    group = parser.add_argument_group(
        "another trial of a global search than its best", "it is cut again, from the same calibration images"
    )
    group.add_argument("--trial", type=COUNT_OR_NONE.parse, metavar="N", help="by its number in the database")
    group.add_argument("--map_tol", type=SHARE.parse, metavar="X", help="the cheapest that loses no more of the AP")
    group.add_argument(
        "--target_flops",
        type=SHARE.parse,
        metavar="SHARE",
        help="the one of highest AP with at most this share of the dense multiply-adds",
    )
    group.add_argument(
        "--coco_path",
        type=file_path,
        metavar="DIR",
        help="data set of the search (default: the embedded demo data set)",
    )
    add_cache_argument(group)
    add_device_arguments(parser, amp=False)
    parser.add_argument(
        "--output", type=file_path, default=Path("slim.safetensors"), metavar="PATH", help="the slim checkpoint"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Transplant as the arguments say.

    Raises:
        UserError: the checkpoint, the study or the widths cannot be used, or an option does nothing with them.
    """
    args, given = parse_given(parser(), argv)
    check_needs(args, given, _NEEDS)
    if args.cfgs is not None and args.db is not None:
        raise UserError("--cfgs and --db both say what survives; give one of them")
    if args.output.suffix != ".safetensors":
        raise UserError(f"--output {args.output} must end in .safetensors")
    model, slim = _slim(args, lambda source: check_needs(args, given, _needs(source)))
    save_checkpoint(slim, args.output)
    for part, pair in (("Transformer", (model.transformer, slim.transformer)), ("whole model", (model, slim))):
        before, after = (sum(p.numel() for p in each.parameters()) for each in pair)
        print(f"{part}: {before:,} -> {after:,} parameters ({after / before - 1:+.1%})", file=sys.stderr)
    print(f"saved {args.output}; its widths are", file=sys.stderr)
    print(slim.cfgs)
    return 0


def _needs(source: str) -> Needs:
    """What options need, given what says what survives: `cfgs`, `masks`, or the schedule of a study."""
    from_study = Need(_SOURCES.get(source, ""), lambda args: source not in _SOURCES)
    globally = Need(f"it is for a study of --schedule global, this one is of {source}", lambda args: source == "global")
    return {
        "study": (from_study,),
        "coco_path": (from_study,),
        **dict.fromkeys(("trial", "map_tol", "target_flops", "cache_gb"), (from_study, globally)),
    }


def _slim(args: argparse.Namespace, check: Callable[[str], None]) -> tuple[Detector, Detector]:
    """The dense model and what survives of it; `check` is told what says so, see `_needs`."""
    device = open_device(args)
    if args.cfgs is not None:
        check("cfgs")
        overrides: dict[str, Any] = {"whole_heads": True} if args.whole_heads else {}
        model = load_model(args.resume, key=args.key, **overrides).to(device)
        cfgs = check_cfgs(parse_cfgs(args.cfgs), model.cfgs, model.options.heads, model.options.unit)
        return model, transplant(model, kept_by_magnitude(model, cfgs))
    model = load_model(args.resume, key=args.key)
    masks = {} if args.db is not None else search_masks(read_checkpoint(args.resume, args.key)[0])
    if masks:
        check("masks")
        kept, exchanged = kept_from_masks(model, masks)
        print(
            f"{len(kept)} search masks; {exchanged} channels exchanged so that heads keep equal numbers",
            file=sys.stderr,
        )
        model = model.to(device)
        return model, transplant(model, kept)
    return _searched(args, model, check)


def _searched(args: argparse.Namespace, model: Detector, check: Callable[[str], None]) -> tuple[Detector, Detector]:
    """The model as it was searched, and what a finished study, if it searched this very model, leaves of it."""
    if args.db is None and not DEFAULT_DB.is_file():
        raise UserError(f"there is no {DEFAULT_DB}; search first (tools/prune_greedy.py), or give --db or --cfgs")
    db = str(DEFAULT_DB) if args.db is None else args.db
    settings, records, result = load_result(db, args.study)
    place = f"the study in {db}"
    settings = {"whole_heads": False, "mend_augment": "detr", **settings}  # the earliest studies do not say
    check_values(settings, SETTINGS, f"{place}: its settings")
    check(settings["schedule"])
    if result is None:
        raise UserError(
            f"the search is not finished ({len(records)} trials are done): run its command again until it is"
        )
    if settings["weights"] != weights_hash(model):
        raise UserError(f"the study searched other weights than {args.resume}; give the dense checkpoint it ran on")
    if settings["whole_heads"] != model.options.whole_heads:
        model = load_model(args.resume, key=args.key, whole_heads=settings["whole_heads"])
    check_result(result, model, place)
    model = model.to(open_device(args))
    if settings["schedule"] == "global":
        check_values(settings, CUT_SETTINGS, f"{place}: its settings")
        check_proposals(records, place)
        check_sites(records, {s.name: (s.width, s.grain) for s in list_sites(model, settings["prune"])}, place)
        return model, _cut(args, model, settings, _told(args, records, settings, result))
    if args.coco_path is not None:
        _open_train(args, model, settings)
    order = order_sites(list_sites(model), settings["schedule"])
    check_growths(order, records, place)
    slim = transplant(model, kept_so_far(order, records))
    if slim.cfgs != parse_cfgs(result["cfgs"]):
        raise UserError(f"{place}: its result has other widths than its trials, some are missing; {REMEDY}")
    return model, slim


def _open_train(args: argparse.Namespace, model: Detector, settings: Mapping[str, Any]) -> CocoDetection:
    train = open_dataset(args, model, "train")
    if train.fingerprint != settings.get("train_data"):
        raise UserError("the study was made with other training images; give its --coco_path")
    return train


def _cut(args: argparse.Namespace, model: Detector, settings: Mapping[str, Any], record: Record | None) -> Detector:
    train = _open_train(args, model, settings)
    score = scoring_ids(train, settings["score_images"], settings["seed"])
    room = Room(round(args.cache_gb * 1e9))
    with autocast(next(model.parameters()).device, settings["amp"], in_place=True), ProposalDisplay() as told:
        return open_cutter(model, train, score, settings, room, 0, told.doing).slim(record)


def _told(
    args: argparse.Namespace, records: Sequence[Record], settings: Mapping[str, Any], result: Mapping[str, Any]
) -> Record | None:
    """`pick`, and what it picked on stderr."""
    record = pick(args, records, settings["map_tol"], result["dense"]["flops"])
    if record is None:
        print("no trial holds what was searched for: the dense model", file=sys.stderr)
    elif isinstance(record.origin, Proposal):
        ap = "not measured on all images" if record.full_map is None else f"{record.full_map:.4f}"
        print(f"trial {records.index(record)} ({record.origin.phase}): AP {ap}", file=sys.stderr)
    return record


def pick(args: argparse.Namespace, records: Sequence[Record], searched_tol: float, dense_flops: float) -> Record | None:
    """The trial that the arguments ask for; None: the dense model.

    Args:
        args: parsed arguments.
        records: the trials in order.
        searched_tol: `map_tol` of the search. What its trials had to hold tells the dense AP exactly as they were
            measured, so that a trial that held a tolerance there holds it here.
        dense_flops: multiply-adds of the dense model.

    Raises:
        UserError: more than one is asked for, or there is none.
    """
    asked = [name for name in ("trial", "map_tol", "target_flops") if getattr(args, name) is not None]
    if len(asked) > 1:
        raise UserError(f"--{asked[0]} and --{asked[1]} pick two trials; give one of them")
    if not asked:
        return best_record(records)
    if args.trial is not None:
        if args.trial >= len(records):
            raise UserError(f"--trial {args.trial}: the study has {len(records)} trials, 0 to {len(records) - 1}")
        return records[args.trial]
    measured = [(record.full_map, record) for record in records if record.full_map is not None]
    fit: list[tuple[float, float, Record]]
    if args.map_tol is not None:
        dense_map = records[0].target / (1 - searched_tol) if records else 0.0
        least = (1 - args.map_tol) * dense_map
        # The cheapest in what was searched for, which need not be multiply-adds.
        fit = [(-share_of(r), found, r) for found, r in measured if found >= least - 1e-9]
        missing = f"--map_tol {args.map_tol:g}: no trial has an AP of {least:.4f}"
    else:
        fit = [(found, -r.flops, r) for found, r in measured if r.flops <= args.target_flops * dense_flops]
        missing = f"--target_flops {args.target_flops:g}: no measured trial has so few multiply-adds"
    if not fit:
        raise UserError(
            f"{missing}; run the search again with --pareto, or search with it in a study of its own "
            f"(tools/prune_greedy.py {missing.split(':')[0]} --study NAME)"
        )
    return max(fit, key=lambda each: each[:2])[2]
