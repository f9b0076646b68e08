"""`tools/prune_greedy.py` and `tools/prune_greedy_ad.py`: search the width of every site."""

import argparse
import copy
import hashlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from greedyprune.cfgs import parse_cfgs
from greedyprune.cli import DEMO_MODEL, open_model
from greedyprune.commands.calibration import calibration_ids, open_cutter, scoring_ids
from greedyprune.commands.datasets import open_dataset
from greedyprune.commands.needs import check_needs, parse_given
from greedyprune.commands.prune_needs import NEEDS
from greedyprune.commands.prune_options import global_options, parser, schedule_options
from greedyprune.data.coco import CocoDetection
from greedyprune.errors import UserError
from greedyprune.evaluation.evaluate import evaluate, subset_ids, typical_size
from greedyprune.evaluation.predict import autocast
from greedyprune.files import file_hash
from greedyprune.models import Detector, load_model, save_checkpoint
from greedyprune.models.registry import model_name
from greedyprune.pruning.schedule import ScheduleOptions
from greedyprune.pruning.sites import list_sites
from greedyprune.pruning.transplant import transplant
from greedyprune.report import open_console, progress_bar
from greedyprune.search.cost import CostModel
from greedyprune.search.database import DatabaseLost
from greedyprune.search.display import ProposalDisplay, SearchDisplay, duration
from greedyprune.search.evaluator import Evaluator
from greedyprune.search.front import Front
from greedyprune.search.global_search import GlobalSearch, check_budget
from greedyprune.search.images import Images, Room
from greedyprune.search.latency import check_table, measure_sites
from greedyprune.search.loop import kept_so_far, measure_baseline, search
from greedyprune.search.record import Baseline
from greedyprune.search.rescue import rescue
from greedyprune.search.result import check_result, comparison_table, site_table, summarize, write_result
from greedyprune.search.saving import Saving
from greedyprune.search.steps import GlobalOptions, asks_more, best_record
from greedyprune.search.study import Study

LATENCY_BATCH = 8  # images at once, whose time --cost latency saves


@dataclass(frozen=True)
class Chosen:
    """The images of a search, by their ids.

    Attributes:
        val: the validation set.
        train: the training set.
        full: validation images of a full evaluation.
        subset: those of the subset evaluation.
        score: training images whose loss counts.
        calibration: other training images, for the closed form; none for `gp` and `modular`.
        mending: how many of the other training images slim models are mended on; 0: all.
        augment: how images change where slim models with a cut backbone are mended.
    """

    val: CocoDetection
    train: CocoDetection
    full: list[int]
    subset: list[int]
    score: list[int]
    calibration: list[int]
    mending: int
    augment: str

    @classmethod
    def choose(cls, args: argparse.Namespace, model: Detector) -> "Chosen":
        val, train = open_dataset(args, model, "val"), open_dataset(args, model, "train")
        if not val.image_ids:
            raise UserError(f"{val.root} has no validation images, and a search measures AP on them")
        full = subset_ids(val.image_ids, args.eval_images, args.seed)
        wanted = args.score_images or (64 if args.schedule == "global" else 16)
        score = scoring_ids(train, wanted, args.seed)
        calibration: list[int] = []
        if args.schedule == "global":
            calibration = calibration_ids(train, score, args.calib_images, args.seed)
        subset = subset_ids(full, args.subset_images, args.seed)
        return cls(val, train, full, subset, score, calibration, args.mend_images, args.mend_augment)

    def settings(self) -> dict[str, Any]:
        """What a study's settings say of them."""
        told = {
            "eval_images": len(self.full),
            "subset_images": len(self.subset),
            "score_images": len(self.score),
            "val_data": self.val.fingerprint,
            "train_data": self.train.fingerprint,
        }
        if self.calibration:
            told |= {
                "calib_images": len(self.calibration),
                "mend_images": self.mending,
                "mend_augment": self.augment,
            }
        return told


def main(argv: Sequence[str] | None = None, schedule: str = "global") -> int:
    """Search as the arguments say, save the slim model, and print what was found.

    Args:
        argv: the command line.
        schedule: the default of `--schedule`.

    Raises:
        UserError: the model, the data or the database cannot be used, or the study belongs to another search.
    """
    args, given = parse_given(parser(schedule), argv)
    check_needs(args, given, NEEDS)
    model = open_model(args)
    if args.model and args.model != model_name(model):
        raise UserError(
            f"checkpoint {args.resume} is of {model_name(model)}, not of --model {args.model}; give another --resume"
        )
    if model.cfgs != model.options.dense_cfgs():
        raise UserError(f"checkpoint {args.resume} is slim already; search on the dense model")
    read = global_options if args.schedule == "global" else schedule_options
    options: GlobalOptions | ScheduleOptions = read(args, model.options.grain)
    images = Chosen.choose(args, model)
    settings = {
        "scorer": "exact",  # the published one, of every schedule that has no other
        **options.to_dict(),
        "whole_heads": model.options.whole_heads,
        "prune": args.prune,
        **images.settings(),
        "batch_size": args.batch_size,
        "amp": args.amp,
        "weights": weights_hash(model),
    }
    name = f"prune-{args.schedule}" if args.study is None else args.study
    command = shlex.join(["python", *sys.argv[:1], *(sys.argv[1:] if argv is None else argv)])
    cost = CostModel(model, typical_size(images.val, images.full), args.prune)
    steps = {site.name: (site.width, options.step(site.kind)) for site in list_sites(model, args.prune)}
    db = str(args.output_dir / "prune.db") if args.db is None else args.db
    slim_path = args.output_dir / "slim.safetensors"
    with Study.open(db, name, settings, sites=steps, command_hint=command) as study:
        result = study.result()
        if result is not None:
            check_result(result, model, study.place)
        if isinstance(options, GlobalOptions) and asks_more(options, study.records()):
            result = None
        if result is not None:
            print(f"study {name} is finished; this is its result", file=sys.stderr)
        if result is None or not _is_slim_of(study, slim_path):
            try:
                slim, trial = _search(args, options, settings, model, images, cost, study, slim_path)
                ended = study.lost is None
                save_checkpoint(slim, slim_path)
                with suppress(DatabaseLost):
                    study.set_fact("slim", {"trial": trial, "sha256": file_hash(slim_path)})
                result = result or _final(args, settings["scorer"], model, slim, images.val, study)
            except DatabaseLost:
                rescue(study, args.output_dir)
                raise
            except KeyboardInterrupt:
                known = study.lost or f"every finished trial is in the database; go on with: {command}"
                raise KeyboardInterrupt(str(known)) from None
            with suppress(DatabaseLost):
                if ended:
                    study.set_result(result)
            print(f"{study.bookkeeping_seconds:.1f} s of this run went into the database", file=sys.stderr)
        rescue(study, args.output_dir)
        write_result(result, args.output_dir)
        if study.lost is not None:
            raise UserError(f"{study.lost}. The files in {args.output_dir} are of the best that was found until then")
    _tell(result, cost, args, slim_path)
    return 0


def _is_slim_of(study: Study, path: Path) -> bool:
    """Whether the slim checkpoint is the one that this study wrote."""
    known = study.facts().get("slim")
    return path.exists() and isinstance(known, dict) and known.get("sha256") == file_hash(path)


def _tell(result: Mapping[str, Any], cost: CostModel, args: argparse.Namespace, slim_path: Path) -> None:
    cfgs = parse_cfgs(result["cfgs"])
    console = open_console()
    console.print(site_table(cost.full, cost.full | cfgs.widths("all")))
    console.print(comparison_table(result, cost))
    print(f"{result['image_forwards']:,} image forwards in {duration(result['seconds'])}; files in {args.output_dir}")
    print("fine-tune and evaluate the slim model with")
    resume = f"--resume {shlex.quote(str(slim_path))}"
    teacher = "" if args.resume == DEMO_MODEL else f" {shlex.quote(str(args.resume))}"
    teacher += "" if args.key is None else f" --teacher_key {shlex.quote(args.key)}"
    print(f"    python tools/train.py {resume} --teacher{teacher}")
    print(f"    python tools/eval.py {resume}")
    print("--cfgs")
    print(cfgs)


def _search(
    args: argparse.Namespace,
    options: GlobalOptions | ScheduleOptions,
    settings: Mapping[str, Any],
    model: Detector,
    chosen: Chosen,
    cost: CostModel,
    study: Study,
    slim_path: Path,
) -> tuple[Detector, int | None]:
    """Search to the end, from wherever the study stands.

    Returns:
        The slim model, and the number of its trial, where it is of one. It is read from `slim_path` where that holds it
        already: it may have taken long to mend.
    """
    pruned = copy.deepcopy(model)
    device = next(model.parameters()).device

    room = Room(round(args.cache_gb * 1e9))

    def images(data: CocoDetection, ids: Sequence[int], text: str) -> Images:
        return Images(pruned, data, ids, args.batch_size, room, args.num_workers, progress_bar(f"backbone, {text}"))

    with autocast(device, args.amp, in_place=True):
        # In the order of how often they are needed.
        score = images(chosen.train, chosen.score, "scoring images")
        subset = images(chosen.val, chosen.subset, "validation subset")
        rest = images(chosen.val, sorted(set(chosen.full) - set(chosen.subset)), "validation images")
        evaluator = Evaluator(pruned, subset, rest, score, chosen.val.coco)
        if isinstance(options, ScheduleOptions):
            with SearchDisplay() as display, suppress(DatabaseLost):
                search(pruned, options, evaluator, cost, study, display)
            rescue(study, args.output_dir)  # before all that takes long
            return transplant(model, kept_so_far(list_sites(model), study.records())), None
        with ProposalDisplay() as told:
            baseline, saving = _prepare(args, options, model, chosen, cost, evaluator, study, told)
            cutter = open_cutter(model, chosen.train, chosen.score, settings, room, args.num_workers, told.doing)
            with suppress(DatabaseLost):
                GlobalSearch(pruned, cutter, options, evaluator, saving, study, told).run(baseline)
            rescue(study, args.output_dir)  # before all that takes long
            best = best_record(study.records())
            _write_front(args, options, saving, study, told.console)
            trial = None if best is None else study.records().index(best)
            known = study.facts().get("slim")
            if slim_path.exists() and known == {"trial": trial, "sha256": file_hash(slim_path)}:
                return load_model(slim_path).to(device), trial
            return cutter.slim(best), trial


def _prepare(
    args: argparse.Namespace,
    options: GlobalOptions,
    model: Detector,
    chosen: Chosen,
    cost: CostModel,
    evaluator: Evaluator,
    study: Study,
    told: ProposalDisplay,
) -> tuple[Baseline, Saving]:
    """What a global search starts from: the dense model as measured, and what sites cost.

    Nothing is stored before all that may be refused has been looked at: the study stays empty, and takes the settings
    that the refusal advises.
    """
    sites = list_sites(model, args.prune)

    def open_saving(latency: Mapping[str, Any] | None) -> Saving:
        saving = Saving(cost, options.cost, latency)
        if options.budget is not None:
            check_budget(saving, sites, options.step, options.budget)
        return saving

    known, latency = study.baseline(), study.facts().get("latency")
    saving = open_saving(None) if options.cost != "latency" else None
    told.doing("AP of the dense model")
    baseline = known or measure_baseline(evaluator)
    if saving is None:
        if latency is not None:
            saving = open_saving(check_table(latency, sites, options.step, study.place))
        else:
            device = next(model.parameters()).device
            images = [chosen.val[index][0].to(device) for index in range(min(LATENCY_BATCH, len(chosen.val)))]
            told.doing("time of every site")
            latency = measure_sites(model, sites, images, options.step)
            saving = open_saving(latency)
            study.set_fact("latency", latency)
    if known is None:
        study.set_baseline(baseline)
    return baseline, saving


def _write_front(
    args: argparse.Namespace, options: GlobalOptions, saving: Saving, study: Study, console: Console
) -> None:
    baseline = study.baseline()
    assert baseline is not None
    front = Front.of(study.records(), baseline, saving)
    path = args.output_dir / "pareto.png"
    front.write(path, (1 - options.map_tol) * baseline.full_map if options.budget is None else None)
    console.print(front.table())
    console.print(f"drawn in {path}; tools/transplant.py --trial N makes one of them", soft_wrap=True)


def _final(
    args: argparse.Namespace, scorer: str, model: Detector, slim: Detector, val: CocoDetection, study: Study
) -> dict[str, Any]:
    """The last full evaluation, of the dense and of the slim model, from images to AP."""
    measured = [
        evaluate(
            each,
            val,
            images=args.eval_images,
            seed=args.seed,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            amp=args.amp,
            progress=progress_bar(f"evaluate, {text}"),
        ).to_json()
        for text, each in (("dense", model), ("slim", slim))
    ]
    baseline = study.baseline()
    assert baseline is not None
    return summarize(slim.cfgs, args.schedule, scorer, baseline, study.records(), *measured)


def weights_hash(model: Detector) -> str:
    """sha256 of all tensors, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()
