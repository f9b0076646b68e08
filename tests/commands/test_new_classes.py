"""Fine-tuning to other classes, and data with other ids, as a user walks."""

import json
from pathlib import Path

import pytest
import torch

from greedyprune import UserError, build_model, load_model, transplant
from greedyprune.cli import DEMO_MODEL
from greedyprune.commands.eval import main as evaluate
from greedyprune.commands.make_shapes import main as make_shapes
from greedyprune.commands.prune import main as prune
from greedyprune.commands.train import main as train
from greedyprune.models import ModelInfo, save_checkpoint
from greedyprune.training.state import BEST, LAST, STATE

from ..evaluation.tiny_coco import CATEGORIES, MOVED, RENAMED, renumber
from ..helpers.found_by import annotated_by
from ..training.tiny_training import farthest, small_model, write_data

PYRAMID = {"hidden_dim": 32, "heads": 4, "num_feature_levels": 2}
KINDS = {
    "dn_detr": {"hidden_dim": 16, "heads": 2},
    "dn_deformable_encoder_detr": PYRAMID,
    "dn_deformable_detr": {**PYRAMID, "two_stage": True},
    "deformable_detr": PYRAMID,
}
SHORT = ["--device", "cpu", "--threads", "1", "--batch_size", "4", "--augment", "none"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return renumber(write_data(tmp_path_factory.mktemp("data")), RENAMED, MOVED)


def checkpoint(folder, kind):
    torch.manual_seed(0)
    info = ModelInfo(tuple(CATEGORIES.values()), tuple(CATEGORIES), 48, 64)
    shape = {"enc_layers": 1, "dec_layers": 2, "ffn_dim": 8, "num_queries": 9, "backbone": "small", "num_classes": 2}
    model = build_model(kind, info=info, **shape, **KINDS[kind])
    save_checkpoint(model, folder / "old.safetensors")
    return model


@pytest.mark.parametrize(
    "kind", [kind if kind == "dn_deformable_detr" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_every_detector_is_fine_tuned_to_other_classes(kind, data, tmp_path, capsys):
    checkpoint(tmp_path, kind)
    here = ["--resume", str(tmp_path / "old.safetensors"), "--coco_path", str(data), *SHORT]
    with pytest.raises(UserError, match=r"category 6 \(\[/red\]\\n\) of the data is none of .* --new_classes"):
        train([*here, "--output_dir", str(tmp_path / "out")])
    words = [*here, "--new_classes", "--epochs", "1", "--output_dir", str(tmp_path / "out")]
    assert train(words) == 0
    model = load_model(tmp_path / "out" / LAST)
    assert model.info.class_names == tuple(RENAMED.values())
    assert model.info.category_ids == tuple(RENAMED)
    capsys.readouterr()
    found = ["--resume", str(tmp_path / "out" / BEST), "--coco_path", str(data), "--device", "cpu"]
    assert evaluate([*found, "--latency_runs", "0"]) == 0
    assert r"[/red]\n" in capsys.readouterr().out
    assert evaluate([*found, "--latency_runs", "0", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["per_class"]) == list(RENAMED.values())


def test_it_goes_on_exactly_where_it_was_with_averaging_a_dense_head_and_a_slim_model(data, tmp_path):
    slim = transplant(small_model(), {"decoder.0.ffn": range(3), "encoder.0.attn": [0, 2, 9, 11]})
    save_checkpoint(slim, tmp_path / "slim.safetensors")
    here = ["--resume", str(tmp_path / "slim.safetensors"), "--coco_path", str(data), *SHORT, "--new_classes"]
    words = [*here, "--epochs", "2", "--ema", "0.9", "--encoder_head", "1", "--lr", "1e-3", "--output_dir"]
    assert train([*words, str(tmp_path / "straight")]) == 0
    assert load_model(tmp_path / "straight" / LAST).widths == slim.widths
    stopped = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("greedyprune.training.trainer.Trainer._end_epoch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train([*words, str(stopped), "--save_every", "1"])
    assert train([*words, str(stopped), "--save_every", "1"]) == 0
    for name in (STATE, LAST, BEST):
        assert farthest(tmp_path / "straight" / name, stopped / name) == 0


def interrupt(*args):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_from_new_classes_to_a_search(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(small_model(), "old.safetensors")
    here = ["--coco_path", str(data), "--device", "cpu"]
    assert train([*here, *SHORT, "--resume", "old.safetensors", "--new_classes", "--epochs", "6", "--lr", "2e-3"]) == 0
    resume = ["--resume", "runs/train/last.safetensors"]
    found = annotated_by(load_model("runs/train/last.safetensors"), data, tmp_path / "found")
    here = ["--coco_path", str(found), "--device", "cpu"]
    quick = "--map_tol 0.9 --subset_images 3 --score_images 2 --calib_images 4 --mend_steps 2 --mend_images 4"
    assert prune([*here, *resume, *quick.split(), "--attn_step", "4", "--ffn_step", "4", "--batch_size", "4"]) == 0
    slim = load_model("runs/prune/slim.safetensors")
    assert slim.info.class_names == tuple(RENAMED.values())
    told = json.loads(Path("runs/prune/result.json").read_text())
    assert list(told["dense"]["per_class"]) == list(RENAMED.values())
    dense = load_model("runs/train/last.safetensors")
    assert (
        train(
            [
                *here,
                *SHORT,
                "--resume",
                "runs/prune/slim.safetensors",
                "--teacher",
                resume[1],
                "--epochs",
                "1",
                "--output_dir",
                "tuned",
            ]
        )
        == 0
    )
    assert load_model("tuned/last.safetensors").classes == dense.classes


def test_the_demo_finds_its_classes_by_name_whatever_their_ids(tmp_path, capsys):
    words = ["--device", "cpu", "--latency_runs", "0", "--json"]
    make_shapes([str(tmp_path), "--train_images", "1", "--val_images", "12", "--workers", "1"])
    capsys.readouterr()
    evaluate([*words, "--coco_path", str(tmp_path)])
    before = json.loads(capsys.readouterr().out)
    info = load_model(DEMO_MODEL).info
    ids = list(info.category_ids)
    names = {100 - category: name.upper() for category, name in zip(ids, info.class_names, strict=True)}
    renumber(tmp_path, {0: "background", **names}, {category: 100 - category for category in ids})
    evaluate([*words, "--coco_path", str(tmp_path)])
    after = json.loads(capsys.readouterr().out)
    assert after["AP"] == pytest.approx(before["AP"], abs=1e-9)
    assert after["AP"] > 0.5
    assert {name.lower(): ap for name, ap in after["per_class"].items()} == {"background": -1, **before["per_class"]}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--model", "dn_detr", "--new_classes"], "a new model has the data's classes anyway"),
        (["--new_classes", "--teacher"], "the teacher cannot teach this model"),
    ],
)
def test_what_new_classes_cannot_go_with_is_refused_in_a_line(words, line, data, tmp_path):
    with pytest.raises(UserError) as refusal:
        train([*words, "--coco_path", str(data), "--output_dir", str(tmp_path / "out"), *SHORT])
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_class_of_the_validation_images_that_the_training_images_lack_is_named(tmp_path):
    data = write_data(tmp_path / "data")
    path = data / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["categories"].pop()
    content["annotations"] = [each for each in content["annotations"] if each["category_id"] == 3]
    path.write_text(json.dumps(content))
    save_checkpoint(small_model(), tmp_path / "old.safetensors")
    with pytest.raises(UserError, match=r"instances_val2017\.json has 2: category 8 \(disc\).*list it there, too"):
        train(
            [
                "--resume",
                str(tmp_path / "old.safetensors"),
                "--new_classes",
                "--coco_path",
                str(data),
                *SHORT,
                "--output_dir",
                str(tmp_path / "out"),
            ]
        )
