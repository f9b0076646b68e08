"""Tools ask which of several sets of weights is meant, and take the one that `--key` names."""

import pytest
import torch
from safetensors.torch import load_file

from greedyprune import UserError
from greedyprune.commands.eval import main as evaluate
from greedyprune.commands.train import main as train
from greedyprune.commands.transplant import main as transplant
from greedyprune.models import save_checkpoint

from ..training.tiny_training import small_model, write_data

OWN = {"nheads": 2, "dim_feedforward": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    write_data(folder / "data")
    model = small_model()
    save_checkpoint(model, folder / "student.safetensors")
    state = model.state_dict()
    other = state | {"class_embed.bias": state["class_embed.bias"] + 1}
    torch.save({"state_dict": {"net": state, "ema": other}, "args": OWN}, folder / "several.pth")
    return folder


def test_without_a_key_every_tool_says_which_there_are(folder, tmp_path):
    words = r"several\.pth holds several sets of weights: state_dict\.net, state_dict\.ema; choose one, as --key"
    resume = ["--resume", str(folder / "several.pth")]
    output = tmp_path / "slim.safetensors"
    data = ["--coco_path", str(folder / "data"), "--device", "cpu"]
    small = ["--batch_size", "4"]
    teacher = ["--resume", str(folder / "student.safetensors"), "--teacher", str(folder / "several.pth")]
    for tool, arguments in (
        (evaluate, [*resume, *data]),
        (transplant, [*resume, "--cfgs", "[]", "--output", str(output)]),
        (train, [*resume, *data, "--output_dir", str(tmp_path / "a")]),
        (train, [*teacher, *data, *small, "--output_dir", str(tmp_path / "b")]),
    ):
        with pytest.raises(UserError, match=words):
            tool(arguments)
    assert not output.exists()


@pytest.mark.parametrize(("key", "offset"), [("state_dict.net", 0), ("state_dict.ema", 1)])
def test_the_set_of_a_key_is_what_a_tool_works_on(folder, tmp_path, key, offset):
    cfgs = "[[[16, 8]], [[16, 16, 8], [16, 16, 8]]]"
    output = ["--cfgs", cfgs, "--output", str(tmp_path / "slim.safetensors")]
    assert transplant(["--resume", str(folder / "several.pth"), "--key", key, *output]) == 0
    found = load_file(tmp_path / "slim.safetensors")["class_embed.bias"]
    assert torch.equal(found, small_model().class_embed.bias.detach() + offset)


def test_a_teacher_has_a_key_of_its_own(folder, tmp_path):
    arguments = ["--resume", str(folder / "student.safetensors"), "--coco_path", str(folder / "data")]
    arguments += ["--device", "cpu", "--output_dir", str(tmp_path / "out"), "--epochs", "1", "--batch_size", "4"]
    teacher = ["--teacher", str(folder / "several.pth"), "--teacher_key", "state_dict.ema"]
    assert train([*arguments, *teacher]) == 0
    with pytest.raises(UserError, match=r"teacher_key is state_dict.ema there and state_dict.net here"):
        train([*arguments, *teacher[:-1], "state_dict.net"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "dn_detr", "--key", "ema"], "--key chooses weights in --resume"),
        (["--teacher_key", "ema"], "--teacher_key chooses weights in --teacher"),
    ],
)
def test_a_key_of_nothing_is_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        train(arguments)
