"""The way of a deformable detector: from scratch on `shapes`, search, transplant, evaluate, fine-tune."""

import json
from pathlib import Path

import pytest

from greedyprune import UserError, load_model
from greedyprune.commands.eval import main as evaluate
from greedyprune.commands.make_shapes import main as make_shapes
from greedyprune.commands.prune import main as prune
from greedyprune.commands.train import main as train
from greedyprune.commands.transplant import main as transplant_tool

from .helpers.found_by import annotated_by

SHAPE = ["--model", "dn_deformable_detr", "--backbone", "small", "--hidden_dim", "64", "--heads", "4", "--lr", "1e-3"]
SHAPE += ["--enc_layers", "2", "--dec_layers", "2", "--ffn_dim", "64", "--num_queries", "10"]
SHAPE += ["--short_side", "64", "--long_side", "64"]
QUICK = ["--map_tol", "0.5", "--subset_images", "3", "--eval_images", "6", "--score_images", "2"]
QUICK += ["--schedule", "gp", "--num_evaluate", "4", "--attn_step", "8", "--ffn_step", "32"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes([str(folder), "--train_images", "8", "--val_images", "6", "--workers", "1"])
    return ["--coco_path", str(folder), "--device", "cpu"]


@pytest.mark.slow
def test_train_search_transplant_evaluate_and_fine_tune(
    here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--epochs", "1", "--batch_size", "4", "--augment", "flips"]
    assert train([*here, *SHAPE, *short, "--encoder_head", "1", "--output_dir", "first"]) == 0
    dense = load_model("first/last.safetensors")
    assert dense.options.num_feature_levels == 4
    resume = ["--resume", "first/last.safetensors"]
    here = [here[0], str(annotated_by(dense, Path(here[1]), tmp_path / "annotated")), *here[2:]]

    with pytest.raises(UserError, match=r"last\.safetensors is of dn_deformable_detr, not of --model dn_detr"):
        prune([*here, *resume, *QUICK, "-m", "dn_detr"])
    assert prune([*here, *resume, *QUICK, "-m", "dn_deformable_detr"]) == 0
    *_, line = capsys.readouterr().out.strip().splitlines()
    result = json.loads(Path("runs/prune/result.json").read_text())
    assert json.loads(line) == result["cfgs"]
    assert result["slim"]["params"] < result["dense"]["params"]
    assert result["slim"]["flops"] < result["dense"]["flops"]

    assert transplant_tool(resume) == 0
    capsys.readouterr()
    words = ["--resume", "slim.safetensors", "--cfgs", *line.split(), "--json", "--latency_runs", "1"]
    assert evaluate([*here, *words]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["AP"] == pytest.approx(result["slim"]["AP"], abs=1e-6)
    assert measured["flops"] == result["slim"]["flops"]

    assert train([*here, "--resume", "slim.safetensors", *short, "--output_dir", "tuned"]) == 0
    assert load_model("tuned/last.safetensors").widths == load_model("slim.safetensors").widths
