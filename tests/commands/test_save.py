"""`tools/save.py`: a sparse file is small, and every tool takes it for the model that it is."""

import pytest
import torch

from greedyprune import UserError, load, load_model, save
from greedyprune.classical import METHODS, Subject
from greedyprune.commands.eval import main as evaluate
from greedyprune.commands.save import main
from greedyprune.families import family_of
from greedyprune.models import read_checkpoint

from ..helpers.detectors import detector


@pytest.fixture
def sparse(tmp_path):
    """A file of a detector of which nine tenths of the weights are zero."""
    model = detector("deformable, refined")
    save(METHODS["weight"].apply(Subject(family_of(model), model), 0.9), tmp_path / "sparse.safetensors")
    return tmp_path / "sparse.safetensors"


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_sparse_file_is_the_same_model_in_fewer_bytes(sparse, tmp_path, capsys):
    small = tmp_path / "small.safetensors"
    assert main(["--resume", str(sparse), "--sparse", "--output", str(small)]) == 0
    told = {line.split(":")[0]: int(line.split()[-4].replace(",", "")) for line in capsys.readouterr().out.splitlines()}
    assert told["dense file"] == sparse.stat().st_size
    assert told["sparse file"] == small.stat().st_size < 0.6 * sparse.stat().st_size
    assert same(load_model(small), load_model(sparse))
    assert load_model(small).info == load_model(sparse).info
    # And back, in the same place.
    assert main(["--resume", str(small), "--output", str(small)]) == 0
    assert small.stat().st_size == sparse.stat().st_size
    assert capsys.readouterr().out.startswith("dense file: ")
    assert not list(tmp_path.glob(".*"))


def test_values_in_float16_are_rounded_and_nothing_else_is(sparse, tmp_path):
    half = tmp_path / "half.safetensors"
    main(["--resume", str(sparse), "--sparse", "--values", "float16", "--output", str(half)])
    before, after = load_model(sparse).state_dict(), load_model(half).state_dict()
    rounded = {name for name in before if not torch.equal(before[name], after[name])}
    assert rounded
    assert all(torch.equal(before[name].half().float(), after[name]) for name in rounded)
    assert all(before[name].dim() > 1 for name in rounded)


def test_every_door_reads_a_sparse_file(sparse, tmp_path, capsys):
    small = tmp_path / "small.safetensors"
    main(["--resume", str(sparse), "--sparse", "--output", str(small)])
    assert same(load(small), load(sparse))
    assert read_checkpoint(small)[0].keys() == read_checkpoint(sparse)[0].keys()
    capsys.readouterr()
    with pytest.raises(UserError, match="classes"):  # of the demo data, which the evaluation comes to
        evaluate(["--resume", str(small)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--values float16 --output x.safetensors", "--values says how --sparse keeps values, which is not given"),
        ("--sparse --output x.bin", "--output x.bin must end in .safetensors"),
        ("--sparse", "the following arguments are required: --output"),
    ],
)
def test_what_makes_no_sense_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        main(words.split())


def test_a_damaged_sparse_file_is_named(sparse, tmp_path):
    small = tmp_path / "small.safetensors"
    main(["--resume", str(sparse), "--sparse", "--output", str(small)])
    content = small.read_bytes()
    small.write_bytes(content.replace(b'\\"format\\": 1', b'\\"format\\": 7'))
    assert small.read_bytes() != content
    with pytest.raises(UserError, match=r"checkpoint .*small.safetensors: its packed tensors are of format 7"):
        load_model(small)
