"""Packed tensors come back bit for bit, and a damaged file is refused in one line before it takes memory."""

import json

import pytest
import safetensors.torch
import torch

from greedyprune import UserError
from greedyprune.packed import METADATA_KEY, pack, pack_file, unpacked


def sparse(*shape: int, share: float = 0.8) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.where(torch.rand(shape, generator=draw) < share, 0.0, torch.randn(shape, generator=draw))


TENSORS = {
    "wide": sparse(7, 5, 3, 3),
    "row": torch.eye(1, 13) * 2,
    "dense": torch.randn(4, 4),
    "none": torch.zeros(3, 50),
    "counter": torch.tensor(5),
}


def test_what_is_packed_comes_back_bit_for_bit_and_what_would_grow_is_left_as_it_is() -> None:
    signed = {**TENSORS, "signed": sparse(40, 40)}
    signed["signed"][0, :3] = torch.tensor([-0.0, 1e-42, float("-inf")])
    entries, metadata = pack(signed)
    assert set(json.loads(metadata[METADATA_KEY])["shapes"]) == {"wide", "row", "signed"}
    assert entries["dense"] is not None
    assert {"wide.kept", "wide.values", "dense", "none", "counter"} <= entries.keys()
    back = unpacked(entries, metadata, "it")
    assert back.keys() == signed.keys()
    for name, tensor in signed.items():
        assert back[name].shape == tensor.shape
        assert torch.equal(back[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name


def test_a_file_has_the_size_that_the_format_promises_and_keeps_its_metadata(tmp_path) -> None:
    weight = sparse(1000, 1000, share=0.9)
    safetensors.torch.save_file({"weight": weight}, tmp_path / "dense.safetensors", {"about": "a model"})
    sizes = pack_file(tmp_path / "dense.safetensors", tmp_path / "small.safetensors")
    count = int(weight.count_nonzero())
    assert 0 <= sizes.packed - (1_000_000 // 8 + 4 * count) < 400
    assert sizes.packed == (tmp_path / "small.safetensors").stat().st_size
    assert sizes.dense == (tmp_path / "dense.safetensors").stat().st_size > sizes.zipped > sizes.packed
    with safetensors.safe_open(tmp_path / "small.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["about"] == "a model"
    half = pack_file(tmp_path / "dense.safetensors", tmp_path / "half.safetensors", half=True)
    assert sizes.packed - half.packed == 2 * count
    with safetensors.safe_open(tmp_path / "half.safetensors", "pt") as file:
        entries, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    back = unpacked(entries, metadata, "it")["weight"]
    assert torch.equal(back.float(), weight.half().float())


def test_a_number_that_float16_cannot_hold_is_refused() -> None:
    large = sparse(10, 10)
    large[0, 0] = 1e5
    with pytest.raises(UserError, match="tensor w holds 100000, which float16 cannot; keep its values as float32"):
        pack({"w": large}, half=True)


def damaged(**changes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    entries, metadata = pack(TENSORS)
    about = json.loads(metadata[METADATA_KEY])
    for key, value in changes.items():
        if key == "shape":
            about["shapes"]["wide"] = value
        elif key == "about":
            return entries, {METADATA_KEY: value}
        elif key == "format":
            about["format"] = value
        elif value is None:
            del entries[f"wide.{key}"]
        else:
            entries[f"wide.{key}"] = value(entries[f"wide.{key}"])
    return entries, {METADATA_KEY: json.dumps(about)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": [7, 5, 3, 4]}, r"it is damaged: its packed tensor wide is not of shape \[7, 5, 3, 4\]"),
        ({"shape": [2**30, 2**30, 2**30]}, "not of shape"),
        ({"shape": [-7, -5, 9]}, "not of shape a list"),
        ({"shape": "large"}, "not of shape 'large'"),
        ({"shape": [7.0, 45]}, "not of shape a list"),
        ({"shape": [True] * 400}, "not of shape a list"),
        ({"shape": [1] * 9}, "not of shape a list"),
        ({"kept": lambda bits: bits[:-1]}, "not of shape"),
        ({"kept": lambda bits: bits | 255}, "not of shape"),
        ({"kept": lambda bits: bits.float()}, "not of shape"),
        ({"kept": lambda bits: bits[None]}, "not of shape"),
        ({"kept": None}, "not of shape"),
        ({"values": lambda values: values[1:]}, "not of shape"),
        ({"values": lambda values: values[None]}, "not of shape"),
        ({"values": None}, "not of shape"),
        ({"format": 2}, "are of format 2, this version reads 1: it is damaged, or of a newer version"),
        ({"about": "{"}, "it has damaged metadata: what it says about packed tensors is no JSON object of shapes"),
        ({"about": "[" * 100_000}, "damaged metadata"),
        ({"about": '{"shapes": []}'}, "damaged metadata"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        unpacked(*damaged(**changes), "it")
    assert "\n" not in str(refused.value)


def test_a_tensor_that_is_there_twice_is_refused() -> None:
    entries, metadata = pack(TENSORS)
    with pytest.raises(UserError, match="it is damaged: it holds wide packed and as it is"):
        unpacked({**entries, "wide": TENSORS["wide"]}, metadata, "it")


def test_names_that_are_taken_leave_a_tensor_as_it_is() -> None:
    tensors = {"w": sparse(9, 9), "w.kept": torch.ones(2)}
    entries, metadata = pack(tensors)
    assert entries["w"] is not None
    assert unpacked(entries, metadata, "it").keys() == tensors.keys()
