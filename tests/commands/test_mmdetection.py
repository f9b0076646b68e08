"""Tools take a training file of MMDetection as `--resume`, as it is."""

import pytest

from greedyprune import load_model
from greedyprune.commands.eval import main as evaluate
from greedyprune.commands.train import main as train
from greedyprune.commands.transplant import main as transplant

from ..evaluation.tiny_coco import CATEGORIES
from ..models.importing.small_mmdetection import randomised, save_training, theirs
from ..training.tiny_training import write_data

CFG = """
model = dict(decoder=dict(layer_cfg=dict(self_attn_cfg=dict(num_heads=4))))
test_pipeline = [dict(type='Resize', scale=(64, 48), keep_ratio=True)]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mmdetection")
    write_data(folder / "data")
    # Names in another order than the data's, in a head that is wider than they are many.
    names = tuple(CATEGORIES.values())[::-1]
    save_training(folder / "epoch_50.pth", theirs(randomised("one level"), "deformable_detr"), CFG, names)
    return folder


def test_it_is_evaluated_by_the_names_of_its_classes(folder, tmp_path, capsys):
    data = ["--coco_path", str(folder / "data"), "--device", "cpu"]
    assert evaluate(["--resume", str(folder / "epoch_50.pth"), *data]) == 0
    found = capsys.readouterr().out
    assert "AP50" in found
    assert "no class names" not in found


def test_it_is_made_slim(folder, tmp_path):
    slim = tmp_path / "slim.safetensors"
    layout = load_model(folder / "epoch_50.pth").options.layout
    cfgs = layout.to_text({**layout.dense, "encoder.0.ffn": 8})
    assert transplant(["--resume", str(folder / "epoch_50.pth"), "--cfgs", cfgs, "--output", str(slim)]) == 0
    assert load_model(slim).widths["encoder.0.ffn"] == 8


@pytest.mark.slow
def test_it_is_fine_tuned_to_other_classes(folder, tmp_path):
    data = ["--coco_path", str(folder / "data"), "--device", "cpu", "--epochs", "1", "--batch_size", "4"]
    arguments = ["--resume", str(folder / "epoch_50.pth"), "--new_classes", "--output_dir", str(tmp_path / "out")]
    assert train([*arguments, *data]) == 0
    assert load_model(tmp_path / "out" / "last.safetensors").info.class_names == tuple(CATEGORIES.values())
