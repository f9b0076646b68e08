"""`tools/transplant.py` on widths alone, on published search-time checkpoints, and on what it cannot use."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from greedyprune.pruning.sites import list_sites
from greedyprune.search.record import Proposal, Record

from greedyprune import UserError, build_model, load_model
from greedyprune.commands.transplant import main, pick
from greedyprune.models import ModelInfo, save_checkpoint
from greedyprune.pruning.transplant import transplant

SHAPE = {"hidden_dim": 32, "heads": 4, "enc_layers": 1, "dec_layers": 2, "ffn_dim": 40, "num_queries": 7}
CFGS = "[[[16, 24]], [[8, 32, 8], [32, 12, 40]]]"
IMAGE = [torch.randn(3, 64, 96)]


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    info = ModelInfo(("a", "b", "c"), (1, 4, 9), 64, 96)
    save_checkpoint(
        build_model("dn_detr", num_classes=3, backbone="small", info=info, **SHAPE), tmp_path / "dense.safetensors"
    )
    return tmp_path / "dense.safetensors"


@pytest.mark.parametrize("words", [[CFGS], CFGS.split()])
def test_widths_alone_make_a_slim_checkpoint_that_knows_its_shape(
    dense: Path, tmp_path: Path, words: list[str]
) -> None:
    output = tmp_path / "slim.safetensors"
    assert main(["--resume", str(dense), "--output", str(output), "--cfgs", *words]) == 0
    slim = load_model(output)
    assert slim.options.layout.to_list(slim.widths) == json.loads(CFGS)
    assert slim.info == load_model(dense).info
    assert slim(IMAGE).logits.shape == (1, 7, 3)


@pytest.mark.parametrize(
    ("cfgs", "words"),
    [
        (
            "[[[16, 24]], [[8, 30, 8], [32, 12, 40]]]",
            r"decoder layer 0: cross width 30 is not a multiple of the 4 heads",
        ),
        (
            "[[[16, 24]], [[8, 32, 8], [32, 12, 48]]]",
            r"decoder layer 1: ffn width 48 is wider than the dense model's 40",
        ),
        ("[[[16, 24]], [[8, 32, 8]]]", r"1 decoder layers, the model has 2"),
        ("[[16, 24], [[8, 32, 8], [32, 12, 40]]]", r"encoder layer 0 is 16"),
        ("[[[16, 24]], [[8, 32, 8], [32, 12, 40]]", r"not a list"),
        ("__import__('os').abort()", r"not a list"),
    ],
)
def test_widths_that_do_not_fit_are_refused_and_nothing_is_written(
    dense: Path, tmp_path: Path, cfgs: str, words: str
) -> None:
    output = tmp_path / "slim.safetensors"
    output.write_bytes(b"what was there")
    with pytest.raises(UserError, match=words):
        main(["--resume", str(dense), "--output", str(output), "--cfgs", cfgs])
    assert output.read_bytes() == b"what was there"


def test_a_published_search_time_checkpoint_becomes_slim_by_its_masks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("dn_detr", num_classes=3, backbone="small", **SHAPE).eval()
    state = {key.replace("layers.0.self_attn.", "layers.0.") if "encoder" in key else key: value
             for key, value in model.state_dict().items()}  # fmt: skip
    kept = {}
    names = {"attn": 1, "self": 1, "cross": 2}
    for site in list_sites(model):
        mask = torch.zeros(1, 1, site.width)
        width = 2 if site.groups > 1 else 11
        kept[site.name] = tuple(g * site.group_width + 1 + i for g in range(site.groups) for i in range(width))
        mask[..., list(kept[site.name])] = 0.25
        select = names.get(site.kind, 2 if site.part == "encoder" else 3)
        for name, values in (("a", mask), ("w", torch.rand_like(mask)), ("lsearch", mask * 0)):
            state[f"transformer.{site.part}.layers.{site.layer}.select{select}.prune_{name}"] = values
    torch.save({"model": state, "args": argparse.Namespace(nheads=4, dim_feedforward=40)}, tmp_path / "search.pth")
    output = tmp_path / "slim.safetensors"
    assert main(["--resume", str(tmp_path / "search.pth"), "--output", str(output)]) == 0
    slim, expected = load_model(output), transplant(model, kept)
    assert slim.widths == expected.widths
    with torch.inference_mode():
        assert torch.allclose(slim(IMAGE).logits, expected(IMAGE).logits, atol=1e-5)


def test_what_there_is_not_is_said(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="search first"):
        main(["--resume", str(dense)])
    with pytest.raises(UserError, match=r"no database"):
        main(["--resume", str(dense), "--db", "nowhere.db"])
    with pytest.raises(UserError, match=r"does not exist"):
        main(["--resume", "nothing.pth", "--cfgs", CFGS])
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        main(["--resume", str(dense), "--cfgs", CFGS, "--output", "slim.pth"])
    assert not list(tmp_path.glob("slim*"))


def trial(phase: str, share: float, ap: float | None, holds: bool, flops: int) -> Record:
    return Record(Proposal(phase, 0, share, 0.0, holds), {}, 0.5, ap, 0.98 * 0.5, 1, flops, 1, 1.0)


TRIALS = [
    trial("budget", 0.5, None, False, 50),  # skipped early
    trial("budget", 0.75, 0.98 * 0.5, True, 80),
    trial("mend", 0.7, 0.495, True, 85),  # fewer of what was searched for, though not of multiply-adds
    trial("pareto", 0.4, 0.45, False, 40),
    trial("pareto", 0.2, 0.3, False, 30),
]


@pytest.mark.parametrize(
    ("asked", "number"),
    [
        ({}, 2),
        ({"trial": 0}, 0),
        ({"trial": 4}, 4),
        ({"map_tol": 0.02}, 2),
        ({"map_tol": 0.1}, 3),
        ({"map_tol": 1.0}, 4),
        ({"target_flops": 0.8}, 1),
        ({"target_flops": 1.0}, 2),
        ({"target_flops": 0.6}, 3),
    ],
)
def test_a_trial_is_picked_by_number_tolerance_or_budget(asked: dict[str, float], number: int) -> None:
    args = argparse.Namespace(**{"trial": None, "map_tol": None, "target_flops": None} | asked)
    assert pick(args, TRIALS, 0.02, 100.0) is TRIALS[number]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"trial": 5}, r"--trial 5: the study has 5 trials, 0 to 4"),
        ({"map_tol": 0.0}, r"--map_tol 0: no trial has an AP of 0\.5000"),
        ({"target_flops": 0.1}, r"--target_flops 0\.1: no measured trial"),
        ({"trial": 1, "map_tol": 0.1}, r"--trial and --map_tol pick two trials"),
    ],
)
def test_a_trial_that_is_not_there_is_refused_in_one_line(asked: dict[str, float], words: str) -> None:
    args = argparse.Namespace(**{"trial": None, "map_tol": None, "target_flops": None} | asked)
    with pytest.raises(UserError, match=words):
        pick(args, TRIALS, 0.02, 100.0)


def test_where_nothing_holds_the_dense_model_is_picked() -> None:
    args = argparse.Namespace(trial=None, map_tol=None, target_flops=None)
    assert pick(args, [trial("budget", 0.5, 0.1, False, 50)], 0.02, 100.0) is None


@pytest.mark.parametrize(
    "words",
    ["--trial 1", "--map_tol 0.1", "--target_flops 0.9", "--coco_path data", "--cache_gb 1", "--study x"],
)
@pytest.mark.parametrize("source", ["cfgs", "masks"])
def test_an_option_of_a_study_is_refused_where_there_is_none(
    source: str, words: str, dense: Path, tmp_path: Path
) -> None:
    model = load_model(dense)
    resume, cfgs = dense, ["--cfgs", CFGS]
    if source == "masks":
        state = model.state_dict()
        for layer, widths in (
            ("encoder.layers.0", (1, 2)),
            ("decoder.layers.0", (1, 2, 3)),
            ("decoder.layers.1", (1, 2, 3)),
        ):
            for select in widths:
                size = 40 if select == widths[-1] else 32
                state[f"transformer.{layer}.select{select}.prune_a"] = torch.ones(1, 1, size)
        resume, cfgs = tmp_path / "search.pth", []
        torch.save({"model": state, "args": argparse.Namespace(nheads=4, dim_feedforward=40)}, resume)
    flag = words.split()[0]
    with pytest.raises(UserError, match=rf"^{flag} does nothing in this call: .*; leave it out$"):
        main(["--resume", str(resume), *cfgs, "--output", str(tmp_path / "slim.safetensors"), *words.split()])


def test_how_heads_leave_is_for_widths_alone(dense: Path) -> None:
    with pytest.raises(UserError, match="--whole_heads does nothing in this call: it is for --cfgs"):
        main(["--resume", str(dense), "--whole_heads"])
