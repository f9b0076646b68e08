"""The way by whole heads: search, stop, go on, transplant, evaluate, fine-tune; after the search no tool is told."""

import json
from pathlib import Path

import pytest
import torch

from greedyprune import UserError, build_model, load_model
from greedyprune.commands.eval import main as evaluate
from greedyprune.commands.make_shapes import main as make_shapes
from greedyprune.commands.prune import main as prune
from greedyprune.commands.train import main as train
from greedyprune.commands.transplant import main as transplant_tool
from greedyprune.data.splits import data_classes
from greedyprune.models import ModelInfo, save_checkpoint
from greedyprune.study.reading import load_study
from greedyprune.study.study import Study
from greedyprune.study.trial import Trial

from .helpers.found_by import annotated_by

SHAPE = {"hidden_dim": 64, "heads": 4, "enc_layers": 1, "dec_layers": 2, "ffn_dim": 32, "num_queries": 8}
HEAD_DIM = 16  # of the demo, too
QUICK = ["--map_tol", "0.2", "--subset_images", "3", "--eval_images", "6", "--score_images", "2", "--num_evaluate", "2"]
QUICK += ["--schedule", "gp", "--attn_step", "2", "--ffn_step", "256"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes([str(folder), "--train_images", "8", "--val_images", "6", "--workers", "1"])
    return folder


def stop_after(patch: pytest.MonkeyPatch, trials: int) -> None:
    """Ctrl-C while a search writes the trial after `trials` others."""
    add, written = Study.add, []

    def stop(study: Study, trial: Trial) -> None:
        if len(written) == trials:
            raise KeyboardInterrupt
        written.append(trial)
        add(study, trial)

    patch.setattr(Study, "add", stop)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "dn_deformable_detr"])
def test_search_stop_go_on_transplant_evaluate_and_fine_tune(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    resume = []
    if name != "demo":
        torch.manual_seed(0)
        classes = data_classes(data)
        info = ModelInfo(classes.names, classes.ids, 64, 64)
        model = build_model(name, num_classes=8, backbone="small", info=info, num_feature_levels=2, **SHAPE)
        save_checkpoint(model, "dense.safetensors")
        resume = ["--resume", "dense.safetensors"]
        data = annotated_by(model, data, tmp_path / "annotated")
    here = ["--coco_path", str(data), "--device", "cpu"]
    words = [*here, *resume, *QUICK, "--whole_heads"]
    assert prune(words) == 0
    line = capsys.readouterr().out.strip().splitlines()[-1]
    result = json.loads(Path("runs/prune/result.json").read_text())
    encoder, decoder, *_ = json.loads(line)
    attention = [width for *widths, _ in [*encoder, *decoder] for width in widths]
    assert all(width % HEAD_DIM == 0 for width in attention)
    assert min(attention) <= 2 * HEAD_DIM
    assert result["slim"]["params"] < result["dense"]["params"]
    trials = load_study("runs/prune/prune.db").trials

    again = [*words, "--db", "again.db", "--output_dir", "again"]
    with monkeypatch.context() as patch:
        stop_after(patch, trials=6)
        with pytest.raises(KeyboardInterrupt):
            prune(again)
    assert len(load_study("again.db").trials) == 6
    with pytest.raises(UserError, match="whole_heads was true, now false"):
        prune([word for word in again if word != "--whole_heads"])
    assert prune(again) == 0
    assert [trial.grown for trial in load_study("again.db").trials] == [trial.grown for trial in trials]

    assert transplant_tool(resume) == 0
    capsys.readouterr()
    slim = ["--resume", "slim.safetensors"]
    assert evaluate([*here, *slim, "--cfgs", *line.split(), "--json", "--latency_runs", "1"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["AP"] == pytest.approx(result["slim"]["AP"], abs=1e-6)
    assert (measured["params"], measured["flops"]) == (result["slim"]["params"], result["slim"]["flops"])

    tuning = ["--epochs", "1", "--batch_size", "4", "--augment", "flips", "--output_dir", "tuned"]
    assert train([*here, *slim, *tuning]) == 0
    tuned = load_model("tuned/last.safetensors", line)
    assert tuned.options.whole_heads


def test_widths_alone_are_taken_by_whole_heads_when_asked(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("deformable_detr", num_classes=3, backbone="small", **SHAPE)
    save_checkpoint(model, tmp_path / "dense.safetensors")
    words = ["--resume", str(tmp_path / "dense.safetensors"), "--output", str(tmp_path / "slim.safetensors")]
    cfgs = [[[16, 20]], [[32, 48, 32], [64, 16, 1]]]
    assert transplant_tool([*words, "--whole_heads", "--cfgs", json.dumps(cfgs)]) == 0
    slim = load_model(tmp_path / "slim.safetensors")
    assert slim.options.whole_heads
    assert slim.options.layout.to_list(slim.widths) == cfgs
    with pytest.raises(UserError, match="cross width 40 is not a multiple of the 16 channels of a head"):
        transplant_tool([*words, "--whole_heads", "--cfgs", json.dumps(cfgs).replace("48", "40")])
    with pytest.raises(UserError, match="--whole_heads does nothing in this call: it is for --cfgs"):
        transplant_tool([*words, "--whole_heads"])
