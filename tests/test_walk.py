"""The way a user walks, on the embedded demo: search, transplant, evaluate, fine-tune."""

import json
import random
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from greedyprune import UserError, load_model
from greedyprune.cli import DEMO_MODEL
from greedyprune.commands.eval import main as evaluate
from greedyprune.commands.make_shapes import main as make_shapes
from greedyprune.commands.prune import main as prune
from greedyprune.commands.train import main as train
from greedyprune.commands.transplant import main as transplant_tool
from greedyprune.data.coco import CocoDetection
from greedyprune.data.loader import make_loader
from greedyprune.data.transforms import eval_transform
from greedyprune.evaluation.ap import coco_ap
from greedyprune.evaluation.predict import predict_detections
from greedyprune.families import family_of
from greedyprune.pruning.transplant import masked, transplant
from greedyprune.sites import AttentionSite, HiddenSite
from greedyprune.study.reading import load_study

STEPS = ["--subset_images", "6", "--score_images", "2", "--attn_step", "8", "--ffn_step", "256"]
QUICK = {
    "gp": ["--schedule", "gp", *STEPS, "--num_evaluate", "8"],
    "global": [*STEPS, "--calib_images", "6", "--rounds", "1", "--mend_steps", "4", "--mend_images", "6"],
}
QUICK["global, all"] = [*QUICK["global"], "--prune", "all", "--conv_step", "48", "--map_tol", "0.3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes([str(folder), "--train_images", "8", "--val_images", "20", "--workers", "1"])
    return folder


def test_the_demo_detects_and_its_ap_is_the_same_masked_and_slim(data: Path) -> None:
    model = load_model(DEMO_MODEL)
    family = family_of(model)
    rng = random.Random(0)
    kept: dict[str, Sequence[int]] = {"queries": range(45)}
    for site in family.sites(model):
        if not isinstance(site, (AttentionSite, HiddenSite)) or site.part in ("backbone", "heads"):
            continue
        width = rng.randint(site.group_width // 2, site.group_width)
        kept[site.name] = sorted(
            g * site.group_width + c for g in range(site.groups) for c in rng.sample(range(site.group_width), width)
        )
    dataset = CocoDetection(data, "val", model.info.category_ids, eval_transform(160, 160))
    found = [
        predict_detections(family, each, make_loader(dataset, 10), category_ids=model.info.category_ids)
        for each in (model, masked(family, model, kept), transplant(family, model, kept))
    ]
    dense, off, slim = (coco_ap(dataset.coco, each, dataset.image_ids)["AP"] for each in found)
    assert dense > 0.5
    assert off == pytest.approx(slim, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", QUICK)
def test_search_transplant_evaluate_and_fine_tune(
    schedule: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    here = ["--coco_path", str(data), "--device", "cpu"]
    assert prune([*here, *QUICK[schedule]]) == 0
    *told, line = capsys.readouterr().out.strip().splitlines()
    result = json.loads(Path("runs/prune/result.json").read_text())
    assert json.loads(line) == json.loads(Path("runs/prune/cfgs.json").read_text()) == result["cfgs"]
    assert result["slim"]["params"] < result["dense"]["params"]
    assert result["slim"]["flops"] < result["dense"]["flops"]

    assert prune([*here, *QUICK[schedule]]) == 0  # finished: says so and prints the same
    again = capsys.readouterr()
    assert again.out.strip().splitlines()[-1] == line
    assert "is finished; this is its result" in again.err

    the_slim_model_is_read_or_made_again(here, monkeypatch)
    capsys.readouterr()
    words = [*here, "--resume", "slim.safetensors", "--cfgs", *line.split(), "--json", "--latency_runs", "1"]
    assert evaluate(words) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["AP"] == pytest.approx(result["slim"]["AP"], abs=1e-6)
    assert measured["flops"] == result["slim"]["flops"]
    assert measured.keys() == result["dense"].keys()

    if schedule == "global":
        the_front_goes_on_and_is_picked_from(here, monkeypatch)

    _, _, *words = shlex.split(next(line for line in told if "tools/train.py" in line))
    assert words == ["--resume", "runs/prune/slim.safetensors", "--teacher"]
    tuning = ["--epochs", "1", "--batch_size", "4", "--augment", "flips", "--output_dir", "tuned"]
    assert train([*here, *words, *tuning]) == 0
    assert load_model("tuned/last.safetensors").widths == load_model("slim.safetensors").widths


def the_slim_model_is_read_or_made_again(here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The search has saved it; where the file is not there any more it is made again as it was."""
    saved = Path("runs/prune/slim.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr("greedyprune.api.remake", None)
        assert transplant_tool(here) == 0
    assert Path("slim.safetensors").read_bytes() == saved.read_bytes()
    content = saved.read_bytes()
    saved.unlink()
    assert transplant_tool(here) == 0
    assert Path("slim.safetensors").read_bytes() == content
    saved.write_bytes(content)


def the_front_goes_on_and_is_picked_from(here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished study takes more trials; every one of them is a model, and mended ones are mended again."""
    before = load_study("runs/prune/prune.db").trials
    with monkeypatch.context() as patch:
        patch.setattr("greedyprune.search.workshop.Mender", None)  # the best one is read from its file
        assert prune([*here, *QUICK["global"], "--pareto", "2", "--refine", "2", "--sampler", "nsgaii"]) == 0
    trials = load_study("runs/prune/prune.db").trials
    assert trials[: len(before)] == before
    assert [trial.phase for trial in trials[len(before) :]] == ["pareto"] * 2 + ["refine"] * 2
    assert Image.open("runs/prune/pareto.png").width > 500
    mended = next(number for number, trial in enumerate(trials) if trial.phase == "mend")
    for number in (mended, len(trials) - 1):
        assert transplant_tool([*here, "--trial", str(number), "--output", "picked.safetensors"]) == 0
        picked = load_model("picked.safetensors")
        assert picked.widths == picked.options.layout.check(trials[number].widths)
        data = CocoDetection(here[1], "val", picked.info.category_ids, eval_transform(160, 160))
        images = make_loader(data, 10)
        found = predict_detections(family_of(picked), picked, images, category_ids=picked.info.category_ids)
        if (ap := trials[number].full_map) is not None:
            assert coco_ap(data.coco, found, data.image_ids)["AP"] == pytest.approx(ap, abs=2e-3)


@pytest.mark.slow
def test_other_settings_weights_or_data_are_refused(data: Path, tmp_path: Path) -> None:
    here = ["--coco_path", str(data), "--device", "cpu", "--output_dir", str(tmp_path), *QUICK["gp"]]
    assert prune([*here, "--map_tol", "0.5"]) == 0
    with pytest.raises(UserError, match=r"attn\.map_tol was 0\.5, now 0\.4.*--study NAME"):
        prune([*here, "--map_tol", "0.4"])
    with pytest.raises(UserError, match=r"seed was 0, now 1.*--study NAME"):
        prune([*here, "--map_tol", "0.5", "--seed", "1"])
    transplant_tool(["--db", str(tmp_path / "prune.db"), "--output", str(tmp_path / "slim.safetensors")])
    with pytest.raises(UserError, match="slim already"):
        prune([*here, "--resume", str(tmp_path / "slim.safetensors")])
