"""What people call: prune, evaluate, transplant, load and save, each in one call."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from greedyprune.data.coco import CocoDetection
from greedyprune.data.splits import open_split
from greedyprune.data.transforms import form_transform
from greedyprune.embedded import checkpoint_path
from greedyprune.errors import UserError
from greedyprune.evaluation.evaluate import evaluate
from greedyprune.evaluation.predict import autocast
from greedyprune.families import family_of, family_of_file
from greedyprune.families.base import Family
from greedyprune.files import file_hash
from greedyprune.packed import Sizes, write_packed
from greedyprune.pruning import transplant as transplanting
from greedyprune.pruning.bench import NOTHING
from greedyprune.pruning.watcher import Unwatched
from greedyprune.report.front import Front
from greedyprune.report.result import SitesCost, Spent, Summary
from greedyprune.search.allocation import FactsInMemory
from greedyprune.search.options import LATER, SearchOptions
from greedyprune.search.phases import SCHEDULES
from greedyprune.search.search import Display, Search, best_trial, change_of, check_budget, check_trials
from greedyprune.search.setup import Chosen, Resources, open_workshop, searched_sites, settings_of, weights_hash
from greedyprune.search.workshop import Workshop
from greedyprune.sites import Site
from greedyprune.study.distributions import width_distributions
from greedyprune.study.reading import Reading
from greedyprune.study.refusals import DatabaseLost
from greedyprune.study.rescue import rescue
from greedyprune.study.study import Study
from greedyprune.study.trial import Baseline, Trial

SLIM = "slim.safetensors"  # the slim model of a search, in the search's folder
Model = nn.Module | str | Path
Data = CocoDetection | str | Path


@dataclass(frozen=True)
class Result:
    """What a search found.

    Attributes:
        model: the slim detector, in eval mode; a copy of the dense one where nothing could be removed.
        cfgs: its list of widths, as `--cfgs` takes it.
        widths: site name -> width.
        trials: everything that was tried, in order,
        added: and how many of them in this call; 0: the search had ended before.
        best: the trial that the model is of; None: the dense one.
        baseline: the dense model as the search measured it.
        front: AP against cost, of all trials.
        summary: the account of the dense and of the slim model, from images to AP.
        path: the file of the slim model.
    """

    model: nn.Module
    cfgs: Any
    widths: dict[str, int]
    trials: Sequence[Trial]
    added: int
    best: Trial | None
    baseline: Baseline
    front: Front
    summary: Summary
    path: Path


class SearchLost(UserError):
    """The database was lost while a search ran.

    Attributes:
        result: what was found until then.
    """

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


def load(path: str | Path) -> nn.Module:
    """A detector from a checkpoint alone, in eval mode; the name of a shipped one will do.

    Raises:
        UserError: the file cannot be used.

    Example:
        >>> model = greedyprune.load("slim.safetensors")
    """
    file = checkpoint_path(str(path))
    return family_of_file(file).load(file)


def save(model: nn.Module, path: str | Path, *, sparse: bool = False, half: bool = False) -> Sizes | None:
    """A checkpoint that knows its shape, and that `load` reads with no further word.

    Args:
        model: a detector of a registered family.
        path: a `.safetensors` file.
        sparse: weights of many zeros as a bit mask and what is not zero.
        half: with `sparse`, what is not zero as float16.

    Returns:
        With `sparse` what the file would take otherwise.

    Raises:
        UserError: a weight is not finite, or with `half` too large.

    Example:
        >>> greedyprune.save(model, "slim.safetensors")
    """
    path, family = Path(path), family_of(model)
    if not sparse:
        family.save(model, path)
        return None
    return write_packed(lambda whole: family.save(model, whole), path, half)


def transplant(model: Model, kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """A slim model with the surviving weights, which answers as the masked one does.

    Args:
        model: the dense detector, or its file.
        kept: site name -> channels or items that stay; a site that is not named stays as it is.

    Raises:
        UserError: kept sets that do not fit the model.

    Example:
        >>> slim = greedyprune.transplant("dense.safetensors", {"encoder.0.ffn": range(64), "queries": range(40)})
    """
    module = _opened(model)
    return transplanting.transplant(family_of(module), module, kept)


def prune(
    model: Model,
    train: Data,
    val: Data,
    options: SearchOptions | None = None,
    *,
    db: str | Path = "runs/prune/prune.db",
    study: str | None = None,
    output_dir: str | Path | None = None,
    resources: Resources | None = None,
    display: Display | None = None,
    command: str = "",
) -> Result:
    """Search the least widths that hold the accuracy that is asked for, and make the slim model.

    The search may be killed at any moment: the same call goes on from its database.

    Args:
        model: a detector of a registered family in eval mode, or the file of one.
        train: training images: a data set with the evaluation transform, or a folder in COCO's layout.
        val: validation images, likewise.
        options: what is searched.
        db: a file, made with its folder where missing, or an SQLAlchemy URL.
        study: its name there; one database may hold several. Default: `prune-SCHEDULE`.
        output_dir: folder of the slim model. Default: that of the database's file, or `runs/prune`.
        resources: memory budget and processes.
        display: is told what is done; None: nobody is.
        command: what goes on with the study, for whoever comes with other options.

    Raises:
        SearchLost: the database was lost meanwhile; what was found is saved, and the trials are in another one.
        UserError: the model, the data or the database cannot be used, or the study belongs to another search.

    Example:
        >>> options = greedyprune.SearchOptions(map_tol=0.02)
        >>> result = greedyprune.prune("dense.safetensors", "coco", "coco", options, db="prune.db")
        >>> result.cfgs
    """
    options = options or SearchOptions()
    module = _opened(model).eval()
    family = family_of(module)
    folder = Path(output_dir) if output_dir is not None else _folder_of(str(db))
    sites = searched_sites(family, module, options)
    chosen = Chosen.choose(options, _data(val, "val", family, module), _data(train, "train", family, module))
    settings = settings_of(family, module, sites, options, chosen)
    ranges = width_distributions(sites, options.step)
    name = f"prune-{options.schedule}" if study is None else study
    device = next(module.parameters()).device
    with (
        Study.open(str(db), name, settings, ranges=ranges, command=command, later=LATER) as state,
        autocast(device, options.amp, in_place=True),
    ):
        shown = display or _Silence()
        taken = replace(resources or Resources(), watcher=shown)
        workshop = open_workshop(family, module, sites, chosen, options, state, taken)
        check_budget(workshop.saving, sites, options)
        result = _searched(workshop, sites, options, state, folder / SLIM, shown)
        result.summary.write(folder)
        rescue(state, folder)
        if state.lost is not None:
            raise SearchLost(f"{state.lost}. The files in {folder} are of the best that was found until then", result)
        return result


def remake(
    model: Model,
    train: Data,
    val: Data,
    study: Reading,
    trial: int | None,
    *,
    resources: Resources | None = None,
) -> nn.Module:
    """The model of a trial, made again as the search made it.

    Args:
        model: the dense detector that was searched, or its file.
        train: the training images of the search.
        val: its validation images.
        study: the study, as `load_study` reads it.
        trial: the number of the trial; None: the dense model.
        resources: what it may take, and who is told.

    Raises:
        UserError: the study searched another model or other data.
    """
    module = _opened(model).eval()
    family = family_of(module)
    options = SearchOptions.of_settings(study.settings, study.place)
    sites = searched_sites(family, module, options)
    chosen = Chosen.choose(options, _data(val, "val", family, module), _data(train, "train", family, module))
    if study.settings.get("weights") != weights_hash(module):
        raise UserError(f"{study.place} searched other weights; give the dense checkpoint that it ran on")
    if study.settings.get("train_data") != chosen.train.fingerprint:
        raise UserError(f"{study.place} was made with other training images; give its --coco_path")
    check_trials(SCHEDULES[options.schedule](options, sites), study.baseline, study.trials, study.place)
    if trial is None:
        return family.slim(module, NOTHING)
    with autocast(next(module.parameters()).device, options.amp, in_place=True):
        facts = FactsInMemory(dict(study.facts))
        workshop = open_workshop(family, module, sites, chosen, options, facts, resources or Resources())
        return family.slim(module, change_of(study.trials[trial], study.trials, workshop))


def _searched(
    workshop: Workshop, sites: Sequence[Site], options: SearchOptions, state: Study, path: Path, display: Display
) -> Result:
    phases, known = SCHEDULES[options.schedule](options, sites), len(state.trials())
    check_trials(phases, state.baseline(), state.trials(), state.place)
    search = Search(phases, workshop, state, display)
    # Once the database is lost nothing is written any more; what is known is brought to an end nevertheless.
    with suppress(DatabaseLost):
        search.run()
    rescue(state, path.parent)
    trials, baseline, ended = state.trials(), state.baseline(), state.lost is None
    if baseline is None:
        raise UserError(f"{state.place} has no measurement of the dense model; repeat the command")
    best = best_trial(trials)
    number = None if best is None else trials.index(best)
    slim = _slim(workshop, trials, best, state, path)
    family = workshop.bench.family
    widths = {site.name: site.full for site in family.sites(workshop.model)} | (best.widths if best else {})
    layout = family.layout(slim)
    widths = layout.parse(widths, "the result")  # what leaves with a layer is 0, too
    cfgs = layout.to_list(widths)
    summary = _known_summary(state, number)
    if summary is None:
        summary = _summary(workshop, slim, cfgs, widths, number, baseline, trials)
        with suppress(DatabaseLost):
            if ended:
                state.set_result(summary.to_json())
    front = Front.of(trials, baseline, workshop.saving)
    return Result(slim, cfgs, widths, trials, len(trials) - known, best, baseline, front, summary, path)


def _known_summary(state: Study, trial: int | None) -> Summary | None:
    """The account that the study has of this trial's model."""
    stored = state.result()
    summary = None if stored is None else Summary.from_json(stored, "the study's result")
    return summary if summary is not None and summary.trial == trial else None


def _summary(
    workshop: Workshop,
    slim: nn.Module,
    cfgs: Any,
    widths: dict[str, int],
    trial: int | None,
    baseline: Baseline,
    trials: Sequence[Trial],
) -> Summary:
    """The last full evaluation, of the dense and of the slim model, from images to AP."""
    options, dataset = workshop.options, workshop.evaluator.val
    measured = []
    for name, model in (("dense", workshop.model), ("slim", slim)):
        workshop.doing(f"the account of the {name} model")
        measured.append(
            evaluate(
                model,
                dataset,
                images=options.images.eval_images,
                seed=options.seed,
                batch_size=options.batch_size,
                amp=options.amp,
                metric=options.metric,
            )
        )
    return Summary(
        cfgs=cfgs,
        widths=widths,
        trial=trial,
        schedule=options.schedule,
        scorer=options.scorer,
        spent=Spent.of(baseline, trials),
        sites=SitesCost.of(workshop.saving, widths),
        dense=measured[0],
        slim=measured[1],
    )


def _slim(workshop: Workshop, trials: Sequence[Trial], best: Trial | None, state: Study, path: Path) -> nn.Module:
    """The slim model, in its file; where that holds it already it is read: it may have taken long to mend."""
    family, dense = workshop.bench.family, workshop.model
    number = None if best is None else list(trials).index(best)
    if path.exists() and state.facts().get("slim") == {"trial": number, "sha256": file_hash(path)}:
        return family.load(path).to(next(dense.parameters()).device)
    change = NOTHING if best is None else change_of(best, trials, workshop)
    slim = family.slim(dense, change)
    path.parent.mkdir(parents=True, exist_ok=True)
    family.save(slim, path)
    with suppress(DatabaseLost):
        state.set_fact("slim", {"trial": number, "sha256": file_hash(path)})
    return slim


def _opened(model: Model) -> nn.Module:
    return model if isinstance(model, nn.Module) else load(model)


def _data(data: Data, split: str, family: Family, model: nn.Module) -> CocoDetection:
    if isinstance(data, CocoDetection):
        return data
    return open_split(data, split, family.classes(model), form_transform(family.form(model)))


def _folder_of(db: str) -> Path:
    return Path("runs/prune") if "://" in db else Path(db).parent


class _Silence(Unwatched):
    """Nobody is told anything."""

    def begin(self, baseline: Baseline, trials: Sequence[Trial], aim: str) -> None: ...

    def tried(self, trial: Trial) -> None: ...
