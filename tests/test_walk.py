"""The way a user walks, on the embedded demo: search, transplant, evaluate, fine-tune."""

import json
import random
import shlex
from pathlib import Path

import pytest
import torch
from greedyprune.pruning.sites import list_sites
from greedyprune.search.record import Proposal
from greedyprune.search.study import load_result
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
from greedyprune.pruning.transplant import masked, transplant

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
    rng = random.Random(0)
    kept = {}
    for site in list_sites(model):
        width = rng.randint(site.group_width // 2, site.group_width)
        kept[site.name] = sorted(
            g * site.group_width + c for g in range(site.groups) for c in rng.sample(range(site.group_width), width)
        )
    dataset = CocoDetection(data, "val", model.info.category_ids, eval_transform(160, 160))
    found = [
        predict_detections(m, make_loader(dataset, 10)) for m in (model, masked(model, kept), transplant(model, kept))
    ]
    dense, off, slim = (coco_ap(dataset.coco, each, dataset.image_ids)["AP"] for each in found)
    assert dense > 0.5
    assert off == pytest.approx(slim, abs=1e-6)


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
    assert set(result) == {"cfgs", "schedule", "scorer", "seconds", "image_forwards", "dense", "slim"}
    assert result["slim"]["params"] < result["dense"]["params"]

    assert prune([*here, *QUICK[schedule]]) == 0  # finished: says so and prints the same
    again = capsys.readouterr()
    assert again.out.strip().splitlines()[-1] == line
    assert "finished" in again.err

    assert transplant_tool(here) == 0
    capsys.readouterr()
    saved, again_cut = load_model("runs/prune/slim.safetensors"), load_model("slim.safetensors")
    assert saved.cfgs == again_cut.cfgs
    assert all(
        torch.allclose(tensor, again_cut.state_dict()[name], atol=1e-5) for name, tensor in saved.state_dict().items()
    )
    assert (
        evaluate([*here, "--resume", "slim.safetensors", "--cfgs", *line.split(), "--json", "--latency_runs", "1"]) == 0
    )
    measured = json.loads(capsys.readouterr().out)
    assert measured["AP"] == pytest.approx(result["slim"]["AP"], abs=1e-6)
    assert measured["flops"] == result["slim"]["flops"]
    assert measured.keys() == result["dense"].keys()

    tuning = ["--epochs", "1", "--batch_size", "4", "--augment", "flips", "--output_dir", "tuned"]
    if schedule == "global":
        the_front_goes_on_and_is_picked_from(here, monkeypatch)

    _, _, *words = shlex.split(next(line for line in told if "tools/train.py" in line))
    assert words == ["--resume", "runs/prune/slim.safetensors", "--teacher"]
    assert train([*here, *words, *tuning]) == 0
    assert load_model("tuned/last.safetensors").cfgs == load_model("slim.safetensors").cfgs


def the_front_goes_on_and_is_picked_from(here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished study takes more trials; every one of them is a model, and mended ones are mended again."""
    before = load_result("runs/prune/prune.db")[1]
    with monkeypatch.context() as patch:
        patch.setattr("greedyprune.search.cutter.mend", None)  # the best one is read from its file
        assert prune([*here, *QUICK["global"], "--pareto", "2", "--refine", "2", "--sampler", "nsgaii"]) == 0
    records = load_result("runs/prune/prune.db")[1]
    assert records[: len(before)] == before
    added = [record.origin.phase for record in records[len(before) :] if isinstance(record.origin, Proposal)]
    assert added == ["pareto"] * 2 + ["refine"] * 2
    assert Image.open("runs/prune/pareto.png").width > 500
    mended = next(i for i, r in enumerate(records) if isinstance(r.origin, Proposal) and r.origin.phase == "mend")
    for number in (mended, len(records) - 1):
        assert transplant_tool([*here, "--trial", str(number), "--output", "picked.safetensors"]) == 0
        picked = load_model("picked.safetensors")
        assert picked.cfgs.widths() == records[number].widths
        data = CocoDetection(here[1], "val", picked.info.category_ids, eval_transform(160, 160))
        found = predict_detections(picked, make_loader(data, 10))
        if (ap := records[number].full_map) is not None:
            assert coco_ap(data.coco, found, data.image_ids)["AP"] == pytest.approx(ap, abs=2e-3)


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
