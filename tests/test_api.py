"""`greedyprune.prune()` and its neighbours, on a family of its own that this project's models know nothing of."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import greedyprune
from greedyprune import SearchOptions, UserError, families
from greedyprune.api import _Silence
from greedyprune.data.splits import open_split
from greedyprune.data.transforms import eval_transform
from greedyprune.evaluation.predict import predict_detections
from greedyprune.search.options import MendOptions, SearchImages
from greedyprune.study.reading import load_study
from greedyprune.study.trial import Trial

from .evaluation.tiny_coco import tiny_model, write_tiny
from .helpers.grid_family import GridDetector, GridFamily
from .helpers.tiny_search import told

OPTIONS = SearchOptions(
    map_tol=0.05,
    rounds=2,
    images=SearchImages(subset_images=4, score_images=3, calib_images=4),
    mend=MendOptions(steps=3, images=4),
    batch_size=4,
)
WITHIN = replace(OPTIONS, budget=0.8)


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> GridFamily:
    monkeypatch.setattr(families, "_FAMILIES", list(families._FAMILIES))
    made = families.register(GridFamily())
    assert isinstance(made, GridFamily)
    return made


@pytest.fixture
def model() -> GridDetector:
    torch.manual_seed(2)
    return GridDetector().eval()


@pytest.fixture
def data(family: GridFamily, model: GridDetector, tmp_path: Path) -> Path:
    """Images whose objects are what the detector finds."""
    folder = tmp_path / "data"
    for split in ("train", "val"):
        write_tiny(folder, 8, split)
        path = folder / "annotations" / f"instances_{split}2017.json"
        content = json.loads(path.read_text())
        content["categories"] = [{"id": number, "name": name} for number, name in zip((1, 2, 3), "abc", strict=True)]
        content["annotations"] = []
        path.write_text(json.dumps(content))
        images = open_split(folder, split, family.classes(model), eval_transform(64, 64))
        loader = (([image], [target]) for image, target in (images[number] for number in range(len(images))))
        rows = predict_detections(family, model, loader, top_k=3, category_ids=(1, 2, 3)).rows()
        content["annotations"] = [
            {"id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0, **row}
            for number, row in enumerate(rows, start=1)
        ]
        path.write_text(json.dumps(content))
    return folder


class Killed(Exception): ...


class Until(_Silence):
    """Kills a search after some trials."""

    def __init__(self, trials: int) -> None:
        self.left = trials

    def tried(self, trial: Trial) -> None:
        self.left -= 1
        if not self.left:
            raise Killed


def searched(model: GridDetector, data: Path, db: Path, options: SearchOptions = OPTIONS) -> greedyprune.Result:
    return greedyprune.prune(model, data, data, options, db=db)


def test_a_family_of_its_own_is_pruned_saved_and_loaded(
    family: GridFamily, model: GridDetector, data: Path, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = searched(model, data, tmp_path / "out" / "prune.db")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert result.best is not None
    assert result.added == len(result.trials)
    full = {site.name: site.full for site in family.sites(model)}
    assert result.cfgs == {name: width for name, width in result.widths.items() if width < full[name]} != {}
    assert {site.name: site.full for site in family.sites(result.model)} == result.widths
    assert result.summary.slim.cost.params < result.summary.dense.cost.params
    assert result.best.full_map is not None
    assert result.best.full_map >= 0.95 * result.baseline.full_map
    assert result.summary.slim.accuracy["AP"] == pytest.approx(result.best.full_map, abs=2e-3)
    assert result.path == tmp_path / "out" / "slim.safetensors"

    image = torch.randn(2, 3, 64, 64)
    saved = family.load(result.path)
    assert torch.equal(saved(image)[0], result.model(image)[0])
    greedyprune.save(result.model, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == result.path.read_bytes()
    assert greedyprune.evaluate(
        result.model, open_split(data, "val", family.classes(model), eval_transform(64, 64)), latency_runs=0
    ).accuracy["AP"] == pytest.approx(result.summary.slim.accuracy["AP"])


def test_a_search_holds_the_metric_that_is_asked_for_and_no_other_goes_on_with_it(
    family: GridFamily, model: GridDetector, data: Path, tmp_path: Path
) -> None:
    options = replace(OPTIONS, metric="voc10", rounds=0, mend=MendOptions(steps=0))
    result = searched(model, data, tmp_path / "prune.db", options)
    images = open_split(data, "val", family.classes(model), eval_transform(64, 64))
    dense = greedyprune.evaluate(model, images, latency_runs=0, metric="voc10")
    coco = greedyprune.evaluate(model, images, latency_runs=0)
    assert result.baseline.full_map == pytest.approx(dense.accuracy["AP"], abs=0.02)  # rounding may move a box
    assert abs(result.baseline.full_map - coco.accuracy["AP"]) > 0.1
    assert result.summary.dense.metric == "voc10"
    with pytest.raises(UserError, match="other settings: metric was voc10, now coco"):
        searched(model, data, tmp_path / "prune.db", replace(options, metric="coco"))


@pytest.mark.parametrize(("options", "last"), [(OPTIONS, "move"), (WITHIN, "mend")])
def test_a_search_that_is_killed_after_any_trial_goes_on_to_the_same_result(
    options: SearchOptions, last: str, model: GridDetector, data: Path, tmp_path: Path
) -> None:
    calm = searched(model, data, tmp_path / "calm" / "prune.db", options)
    assert calm.trials[-1].phase == last
    db = tmp_path / "troubled" / "prune.db"
    for _ in range((len(calm.trials) - 1) // 2):
        with pytest.raises(Killed):
            greedyprune.prune(model, data, data, options, db=db, display=Until(2))
    known = load_study(str(db)).trials
    assert told(known) == told(calm.trials[: len(known)])
    result = searched(model, data, db, options)
    assert told(result.trials) == told(calm.trials)
    assert result.added == len(calm.trials) - len(known)
    assert result.widths == calm.widths
    assert result.path.read_bytes() == calm.path.read_bytes()

    again = searched(model, data, db, options)  # has ended
    assert again.added == 0
    assert again.summary == result.summary
    more = searched(model, data, db, replace(options, pareto=1))
    assert [trial.phase for trial in more.trials[len(calm.trials) :]] == ["pareto"]


def test_other_options_are_refused_with_what_differs(model: GridDetector, data: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        greedyprune.prune(model, data, data, OPTIONS, db=tmp_path / "prune.db", display=Until(1))
    with pytest.raises(UserError, match=r"map_tol was 0\.05, now 0\.2.*--study NAME"):
        searched(model, data, tmp_path / "prune.db", replace(OPTIONS, map_tol=0.2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (replace(OPTIONS, prune=("neck",)), "--prune neck: a grid detector has the parts convolutions"),
        (replace(OPTIONS, schedule="gp", scorer="exact"), "grid detector"),
    ],
)
def test_what_the_family_does_not_have_is_refused(
    options: SearchOptions, words: str, model: GridDetector, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        searched(model, data, tmp_path / "prune.db", options)


def test_a_model_of_no_family_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Linear is of no family that is known here .*EXTENDING"):
        greedyprune.prune(torch.nn.Linear(1, 1), data, data, OPTIONS, db=tmp_path / "prune.db")


def test_surviving_weights_answer_as_the_masked_model_does(family: GridFamily, model: GridDetector) -> None:
    slim = greedyprune.transplant(model, {"conv1": range(4, 12), "conv2": (0, 5, 9)})
    assert {site.name: site.full for site in family.sites(slim)} == {"conv1": 8, "conv2": 3}
    with pytest.raises(UserError, match="conv3 is no site of the model; its sites are conv1, conv2"):
        greedyprune.transplant(model, {"conv3": (1,)})


def test_a_detector_of_this_project_is_loaded_from_what_was_saved(tmp_path: Path) -> None:
    model = tiny_model().eval()
    greedyprune.save(model, tmp_path / "model.safetensors")
    again = greedyprune.load(tmp_path / "model.safetensors")
    image = [torch.randn(3, 48, 64)]
    assert torch.equal(again(image).logits, model(image).logits)
    slim = greedyprune.transplant(tmp_path / "model.safetensors", {"encoder.0.ffn": range(3)})
    greedyprune.save(slim, tmp_path / "slim.safetensors")
    assert torch.equal(greedyprune.load(tmp_path / "slim.safetensors")(image).boxes, slim(image).boxes)


def test_names_are_there_without_being_imported_before_they_are_used() -> None:
    code = "import sys, greedyprune as g; assert 'torch' not in sys.modules; [getattr(g, name) for name in g.__all__]"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(greedyprune.__all__) <= set(dir(greedyprune))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        greedyprune.nothing  # noqa: B018
