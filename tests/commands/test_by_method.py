"""`tools/transplant.py --method`: what a classical method leaves, in a file that every tool loads."""

from pathlib import Path

import pytest
import torch

from greedyprune import UserError, load_model, save
from greedyprune.classical import Subject, method_of
from greedyprune.commands.transplant import main
from greedyprune.families import family_of
from greedyprune.models import ModelInfo

from ..evaluation.tiny_coco import CATEGORIES, write_tiny
from ..helpers.detectors import detector


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    model = detector("dn_detr", num_classes=len(CATEGORIES))
    model.info = ModelInfo(tuple(CATEGORIES.values()), tuple(CATEGORIES), 48, 64)
    save(model, tmp_path / "dense.safetensors")
    write_tiny(tmp_path / "data", 6, "train")
    return tmp_path / "dense.safetensors"


def call(dense: Path, *words: str) -> torch.nn.Module:
    output = dense.with_name("slim.safetensors")
    assert main(["--resume", str(dense), "--output", str(output), *words]) == 0
    return load_model(output)


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "text", ["filter_l1:0.4", "filter_global:0.3", "weight:0.7", "semi_structured:0.5", "layers:1"]
)
def test_a_method_that_looks_at_no_images_needs_the_checkpoint_alone(dense: Path, text: str, capsys) -> None:
    slim, model = call(dense, "--method", text), load_model(dense)
    method, amount = method_of(text)
    expected = method.apply(Subject(family_of(model), model), amount)
    assert equal(slim, expected)
    count = sum(int(each.count_nonzero()) for each in slim.parameters())
    assert f"parameters that are not zero: {count:,}\n" in capsys.readouterr().err


@pytest.mark.slow
def test_a_method_that_looks_at_images_takes_them_from_the_data_set(dense: Path) -> None:
    words = ["--coco_path", str(dense.parent / "data"), "--calib_images", "4"]
    slim = call(dense, "--method", "basis:0.4", *words)
    plain = call(dense, "--method", "filter_l1:0.4")
    assert slim.options.layout.to_text(slim.widths) == plain.options.layout.to_text(plain.widths)
    assert not equal(slim, plain)


def test_the_published_rule_leaves_zeros_and_says_what_a_cut_would_have(dense: Path, capsys) -> None:
    slim = call(dense, "--method", "filter_l1:0.4", "--as_published")
    told = capsys.readouterr().err
    cut = call(dense, "--method", "filter_l1:0.4")
    assert slim.widths == load_model(dense).widths != cut.widths
    parameters = sum(each.numel() for each in cut.parameters())
    assert f"cut instead of zeroed it has {parameters:,} parameters\n" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--method l1:0.4", "--method 'l1' is unknown; choose one of filter_l1, filter_global,"),
        ("--method filter_l1", "--method 'filter_l1': the amount after filter_l1: must be a number of at least 0 and"),
        ("--method filter_l1:1", "must be a number of at least 0 and below 1"),
        ("--method layers:0.5", "must be a whole number of at least 1"),
        ("--method filter_l1:0.4 --cfgs []", "--cfgs does nothing in this call: --method says what survives"),
        ("--method filter_l1:0.4 --db a.db", "--db does nothing in this call: --method says what survives"),
        ("--method filter_l1:0.4 --calib_images 3", "--calib_images does nothing in this call: filter_l1 looks at no"),
        ("--method weight:0.4 --as_published", "weight has no published rule of its own; leave out --as_published"),
        ("--as_published", "--as_published does nothing in this call: it is for --method; leave it out"),
        ("--calib_images 3", "--calib_images does nothing in this call: it is for --method; leave it out"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(dense: Path, words: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        call(dense, *words.split())
    assert message in str(refused.value)
    assert not dense.with_name("slim.safetensors").exists()
