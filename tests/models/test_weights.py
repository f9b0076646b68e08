"""What cannot be weights is refused by the tensor's name, by whichever way it comes in."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from greedyprune import UserError, build_model, load_checkpoint, load_model
from greedyprune.commands.eval import main as evaluate
from greedyprune.commands.transplant import main as transplant
from greedyprune.models import read_checkpoint
from greedyprune.training.pretrained import load_backbone

from .small_model import ARGUMENTS, SHAPE, answer, published, refused

KEY = "transformer.encoder.layers.0.linear1.weight"


def holding(value):
    """The same numbers, the last of which is this."""

    def change(tensor):
        changed = tensor.clone()
        changed.view(-1)[-1] = value
        return changed

    return change


def quantized(tensor):
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def quantized_by_channel(tensor):
    count = len(tensor)
    return torch.quantize_per_channel(tensor, torch.full((count,), 0.1), torch.zeros(count), 0, torch.qint8)


KINDS = {
    "nan": (holding(float("nan")), "holds NaN or infinity (1 of "),
    "infinity": (holding(float("inf")), "holds NaN or infinity (1 of "),
    "minus infinity": (holding(float("-inf")), "holds NaN or infinity (1 of "),
    "half infinity": (lambda tensor: holding(float("inf"))(tensor.half()), "holds NaN or infinity"),
    "bfloat16 nan": (lambda tensor: holding(float("nan"))(tensor.bfloat16()), "holds NaN or infinity"),
    "beyond float32": (lambda tensor: holding(1e300)(tensor.double()), "holds NaN or infinity"),
    **{
        str(dtype): (
            lambda tensor, dtype=dtype: tensor.to(dtype),
            f"is of {str(dtype).removeprefix('torch.')}; weights",
        )
        for dtype in (
            *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.bool),
            *(torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2),
        )
    },
    "coo": (torch.Tensor.to_sparse, "is sparse"),
    "csr": (torch.Tensor.to_sparse_csr, "is sparse"),
    "meta": (lambda tensor: tensor.to("meta"), "no numbers"),
    "quantized": (quantized, "is quantized"),
    "quantized by channel": (quantized_by_channel, "is quantized"),
    "no rows": (lambda tensor: tensor[:0], "is empty: its shape is [0, 32]"),
    "no columns": (lambda tensor: tensor[:, :0], "is empty: its shape is [48, 0]"),
    "expanded": (lambda tensor: torch.zeros(1).expand(tensor.shape), "is expanded"),
    "expanded rows": (lambda tensor: tensor[:1].clone().expand(tensor.shape), "is expanded"),
    "scalar": (lambda tensor: tensor.sum(), "has shape []"),
    "vector": (lambda tensor: tensor[0], "has shape [32]"),
    "list": (lambda tensor: tensor.tolist(), "a list, not a tensor"),
    "numpy array": (lambda tensor: tensor.numpy(), "not a tensor"),
    "nothing": (lambda tensor: None, "None, not a tensor"),
}


def plain(model):
    return {key: value.detach().clone() for key, value in published(model).items()}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_weights_is_refused_by_name(dense, tmp_path, kind):
    change, words = KINDS[kind]
    state = plain(dense)
    state[KEY] = change(state[KEY])
    torch.save({"model": state, "args": ARGUMENTS}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", KEY, words)
    with pytest.raises(UserError) as error:
        load_checkpoint(build_model("dn_detr", **SHAPE), state)
    assert KEY in str(error.value)


@pytest.mark.parametrize("kind", ["nan", "half infinity", "torch.int8", "torch.float8_e4m3fn", "no rows", "vector"])
def test_safetensors_files_come_in_by_the_same_door(dense, tmp_path, kind):
    change, words = KINDS[kind]
    state = plain(dense)
    save_file(state | {KEY: change(state[KEY]).contiguous()}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", KEY, words)


@pytest.mark.parametrize("key", ["backbone.0.body.bn1.running_var", "backbone.0.body.layer1.0.bn1.running_var"])
def test_a_variance_below_zero_is_refused(dense, tmp_path, key):
    torch.save({"model": plain(dense) | {key: -torch.ones_like(dense.state_dict()[key])}}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", key, "variance", "-1")


def test_counters_are_whole_numbers_that_nothing_reads(dense, tmp_path):
    counters = [key for key in dense.state_dict() if key.endswith("num_batches_tracked")]
    assert counters
    for value in (torch.tensor(7), torch.tensor(7.0), torch.tensor(float("inf")).half()):
        state = plain(dense) | dict.fromkeys(counters, value)
        torch.save({"model": state, "args": ARGUMENTS}, tmp_path / "a.pth")
        assert torch.equal(answer(load_model(tmp_path / "a.pth")), answer(dense))
    torch.save({"model": plain(dense) | {counters[0]: torch.zeros(2)}}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", counters[0], "no counter")


def test_views_are_read_as_what_they_show(dense, tmp_path):
    state = plain(dense)
    state[KEY] = state[KEY].t().contiguous().t()
    flat = torch.cat([state["class_embed.bias"], torch.zeros(3)])
    state["class_embed.bias"] = flat[: len(state["class_embed.bias"])]
    torch.save({"model": state, "args": ARGUMENTS}, tmp_path / "a.pth")
    assert torch.equal(answer(load_model(tmp_path / "a.pth")), answer(dense))


@pytest.fixture
def broken(ours, tmp_path):
    """A checkpoint of this project with a NaN in it."""
    path, state = tmp_path / "broken.safetensors", load_file(ours)
    state["class_embed.bias"][2] = float("nan")
    with safe_open(ours, framework="pt") as file:
        save_file(state, path, file.metadata())
    return path


def test_every_tool_refuses_it_and_saves_nothing(broken, tmp_path):
    words = r"broken\.safetensors: tensor class_embed\.bias holds NaN or infinity \(1 of 6 numbers\)"
    with pytest.raises(UserError, match=words):
        evaluate(["--resume", str(broken), "--device", "cpu"])
    with pytest.raises(UserError, match=words):
        transplant(["--resume", str(broken), "--cfgs", "[]", "--output", str(tmp_path / "slim.safetensors")])
    assert not (tmp_path / "slim.safetensors").exists()


def test_a_backbone_comes_in_by_the_same_door(dense, tmp_path):
    state = dense.backbone[0].body.state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "backbone.pth")
    model = build_model("dn_detr", **SHAPE)
    load_backbone(model, tmp_path / "backbone.pth")
    assert torch.equal(model.backbone[0].body.conv1.weight, dense.backbone[0].body.conv1.weight)
    torch.save(state | {"layer1.0.conv1.weight": state["layer1.0.conv1.weight"] * float("nan")}, tmp_path / "nan.pth")
    with pytest.raises(UserError, match=r"nan\.pth: tensor layer1\.0\.conv1\.weight holds NaN"):
        load_backbone(model, tmp_path / "nan.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_float32_behind_the_door(dense, tmp_path, dtype):
    torch.save({key: value.to(dtype) for key, value in plain(dense).items()}, tmp_path / "a.pth")
    state, _, _ = read_checkpoint(tmp_path / "a.pth")
    assert {value.dtype for key, value in state.items() if "num_batches" not in key} == {torch.float32}
