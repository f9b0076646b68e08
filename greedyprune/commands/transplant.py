"""`tools/transplant.py`: from a search, a published search-time checkpoint or a width list to a slim checkpoint."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from greedyprune import api
from greedyprune.cli import DEMO_MODEL, Parser, add_cache_argument, add_device_arguments, open_device
from greedyprune.commands.datasets import open_dataset
from greedyprune.errors import UserError
from greedyprune.families import family_of
from greedyprune.files import file_hash
from greedyprune.models import Detector, load_model, read_checkpoint
from greedyprune.models.importing.published import search_masks
from greedyprune.pruning.kept import kept_by_magnitude, kept_from_masks
from greedyprune.pruning.transplant import transplant
from greedyprune.ranges import COUNT_OR_NONE, SHARE
from greedyprune.report.display import SearchDisplay
from greedyprune.report.result import Summary
from greedyprune.search.options import SearchOptions
from greedyprune.search.search import best_trial
from greedyprune.search.setup import Resources
from greedyprune.study.reading import Reading, load_study
from greedyprune.study.trial import Trial
from greedyprune.text import file_path, plain_text

DEFAULT_DB = Path("runs/prune/prune.db")
# What an option needs: where it does nothing it is refused.
_OF_STUDY = ("study", "coco_path", "trial", "map_tol", "target_flops", "cache_gb")


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
        "--whole_heads",
        action="store_true",
        default=None,
        help="with --cfgs: attention leaves head by head (a study says it itself)",
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
    add_cache_argument(group, unset=True)
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
    args = parser().parse_args(argv)
    if args.cfgs is not None and args.db is not None:
        raise UserError("--cfgs and --db both say what survives; give one of them")
    if args.whole_heads and args.cfgs is None:
        raise UserError(
            "--whole_heads does nothing in this call: it is for --cfgs, everything else says itself how heads leave; "
            "leave it out"
        )
    if args.output.suffix != ".safetensors":
        raise UserError(f"--output {args.output} must end in .safetensors")
    model, slim = _slim(args)
    family = family_of(slim)
    family.save(slim, args.output)
    parts = {**family.measured, "whole model": ""}
    for label, name in parts.items():
        before, after = (sum(p.numel() for p in each.get_submodule(name).parameters()) for each in (model, slim))
        print(f"{label}: {before:,} -> {after:,} parameters ({after / before - 1:+.1%})", file=sys.stderr)
    print(f"saved {args.output}; its widths are", file=sys.stderr)
    assert isinstance(slim, Detector)
    print(slim.options.layout.to_text(slim.widths))
    return 0


def _slim(args: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    """The dense model and what survives of it."""
    device = open_device(args)
    if args.cfgs is not None:
        _refuse(args, "--cfgs gives the widths")
        overrides: dict[str, Any] = {"whole_heads": True} if args.whole_heads else {}
        model = load_model(args.resume, key=args.key, **overrides).to(device)
        family = family_of(model)
        widths = family.layout(model).parse(args.cfgs, "--cfgs")
        return model, transplant(family, model, kept_by_magnitude(family.sites(model), model.state_dict(), widths))
    model = load_model(args.resume, key=args.key)
    masks = {} if args.db is not None else search_masks(read_checkpoint(args.resume, args.key)[0])
    if not masks:
        return _searched(args, model)
    _refuse(args, "a published search-time checkpoint says itself what survives")
    family = family_of(model)
    kept, exchanged = kept_from_masks(family.sites(model), masks)
    print(f"{len(kept)} search masks; {exchanged} channels exchanged so that heads keep equal numbers", file=sys.stderr)
    model = model.to(device)
    return model, transplant(family, model, kept)


def _refuse(args: argparse.Namespace, why: str, options: Sequence[str] = _OF_STUDY) -> None:
    """Refuse options that do nothing.

    Raises:
        UserError: names the first that was given.
    """
    for name in options:
        if getattr(args, name) is not None:
            raise UserError(f"--{name} does nothing in this call: {why}; leave it out")


def _searched(args: argparse.Namespace, model: Detector) -> tuple[nn.Module, nn.Module]:
    """The model as it was searched, and what a finished study, if it searched this very model, leaves of it."""
    if args.db is None and not DEFAULT_DB.is_file():
        raise UserError(f"there is no {DEFAULT_DB}; search first (tools/prune_greedy.py), or give --db or --cfgs")
    study = load_study(str(DEFAULT_DB) if args.db is None else args.db, args.study)
    options = SearchOptions.of_settings(study.settings, study.place)
    if options.published:
        why = f"it is for a study of --schedule global, this one is of {options.schedule}"
        _refuse(args, why, ("trial", "map_tol", "target_flops"))
    if study.result is None:
        raise UserError(
            f"the search is not finished ({len(study.trials)} trials are done): run its command again until it is"
        )
    if study.settings.get("whole_heads", False) != model.options.whole_heads:
        model = load_model(args.resume, key=args.key, whole_heads=bool(study.settings.get("whole_heads")))
    model = model.to(open_device(args))
    summary = Summary.from_json(study.result, study.place)
    trial = _told(args, study, summary)
    number = None if trial is None else study.trials.index(trial)
    saved = _saved(args, study, number)
    if saved is not None:
        print(f"it is in {saved} already, and read from there", file=sys.stderr)
        return model, load_model(saved)
    val, train = (open_dataset(args, model, split) for split in ("val", "train"))
    with SearchDisplay() as display:
        cache_gb = Resources.cache_gb if args.cache_gb is None else args.cache_gb
        resources = Resources(cache_gb, progress=display.counting, watcher=display)
        return model, api.remake(model, train, val, study, number, resources=resources)


def _saved(args: argparse.Namespace, study: Reading, trial: int | None) -> Path | None:
    """The file of the slim model, where the search has saved just this one; mending takes minutes."""
    db = str(DEFAULT_DB) if args.db is None else args.db
    path = Path(db).parent / api.SLIM
    if "://" in db or not path.is_file():
        return None
    known: Mapping[str, Any] = study.facts.get("slim") or {}
    return path if known == {"trial": trial, "sha256": file_hash(path)} else None


def _told(args: argparse.Namespace, study: Reading, summary: Summary) -> Trial | None:
    """`pick`, and what it picked on stderr."""
    trial = pick(args, study, summary.dense.cost.flops)
    if trial is None:
        print("no trial holds what was searched for: the dense model", file=sys.stderr)
    else:
        ap = "not measured on all images" if trial.full_map is None else f"{trial.full_map:.4f}"
        print(f"trial {study.trials.index(trial)} ({trial.phase}): AP {ap}", file=sys.stderr)
    return trial


def pick(args: argparse.Namespace, study: Reading, dense_flops: float) -> Trial | None:
    """The trial that the arguments ask for; None: the dense model.

    Args:
        args: parsed arguments.
        study: a finished one.
        dense_flops: multiply-adds of the dense model.

    Raises:
        UserError: more than one is asked for, or there is none.
    """
    trials = study.trials
    asked = [name for name in ("trial", "map_tol", "target_flops") if getattr(args, name) is not None]
    if len(asked) > 1:
        raise UserError(f"--{asked[0]} and --{asked[1]} pick two trials; give one of them")
    if not asked:
        return best_trial(trials)
    if args.trial is not None:
        if args.trial >= len(trials):
            raise UserError(f"--trial {args.trial}: the study has {len(trials)} trials, 0 to {len(trials) - 1}")
        return trials[args.trial]
    measured = [(trial.full_map, trial) for trial in trials if trial.full_map is not None]
    fit: list[tuple[float, float, Trial]]
    if args.map_tol is not None:
        least = (1 - args.map_tol) * (study.baseline.full_map if study.baseline else 0.0)
        # The cheapest in what was searched for, which need not be multiply-adds.
        fit = [(-trial.share, found, trial) for found, trial in measured if found >= least - 1e-9]
        missing = f"--map_tol {args.map_tol:g}: no trial has an AP of {least:.4f}"
    else:
        fit = [(found, -t.flops, t) for found, t in measured if t.flops <= args.target_flops * dense_flops]
        missing = f"--target_flops {args.target_flops:g}: no measured trial has so few multiply-adds"
    if not fit:
        raise UserError(
            f"{missing}; run the search again with --pareto, or search with it in a study of its own "
            f"(tools/prune_greedy.py {missing.split(':')[0]} --study NAME)"
        )
    return max(fit, key=lambda each: each[:2])[2]
