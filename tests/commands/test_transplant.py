"""`tools/transplant.py` on widths alone, on published search-time checkpoints, and on what it cannot use."""

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch

from greedyprune import UserError, build_model, load_model
from greedyprune.commands.prune import main as prune
from greedyprune.commands.transplant import main, pick
from greedyprune.data.splits import open_split
from greedyprune.data.transforms import eval_transform
from greedyprune.evaluation.evaluate import evaluate
from greedyprune.families import family_of
from greedyprune.models import ModelInfo, save_checkpoint
from greedyprune.pruning.transplant import transplant
from greedyprune.sites import AttentionSite, HiddenSite
from greedyprune.study.reading import Reading, load_study
from greedyprune.study.study import Study
from greedyprune.study.trial import Baseline, Trial

from ..evaluation.tiny_coco import write_tiny
from ..helpers.tiny_search import QUICK, tiny_search

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
        ("[[16, 24], [[8, 32, 8], [32, 12, 40]]]", r"2 encoder layers, the model has 1"),
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
    selects = {"attn": 1, "self": 1, "cross": 2}
    family = family_of(model)
    for site in family.sites(model):
        if site.part not in ("encoder", "decoder") or not isinstance(site, (AttentionSite, HiddenSite)):
            continue
        mask = torch.zeros(1, 1, site.full)
        width = 2 if site.groups > 1 else 11
        kept[site.name] = tuple(g * site.group_width + 1 + i for g in range(site.groups) for i in range(width))
        mask[..., list(kept[site.name])] = 0.25
        part, layer, kind = site.name.split(".")
        select = selects.get(kind, 2 if part == "encoder" else 3)
        for name, values in (("a", mask), ("w", torch.rand_like(mask)), ("lsearch", mask * 0)):
            state[f"transformer.{part}.layers.{layer}.select{select}.prune_{name}"] = values
    torch.save({"model": state, "args": argparse.Namespace(nheads=4, dim_feedforward=40)}, tmp_path / "search.pth")
    output = tmp_path / "slim.safetensors"
    assert main(["--resume", str(tmp_path / "search.pth"), "--output", str(output)]) == 0
    slim, expected = load_model(output), transplant(family, model, kept)
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


def trial(phase: str, share: float, ap: float | None, holds: bool, flops: int) -> Trial:
    return Trial(phase, 0, {}, share, holds, 0.5, ap, 0.98 * 0.5, 1, flops, 1, 1.0)


def study(*trials: Trial) -> Reading:
    return Reading("x", "study 'x'", {"map_tol": 0.02}, list(trials), Baseline(0.5, 0.5, 1, 1.0), {}, None)


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
    assert pick(args, study(*TRIALS), 100.0) is TRIALS[number]


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
        pick(args, study(*TRIALS), 100.0)


def test_where_nothing_holds_the_dense_model_is_picked() -> None:
    args = argparse.Namespace(trial=None, map_tol=None, target_flops=None)
    assert pick(args, study(trial("budget", 0.5, 0.1, False, 50)), 100.0) is None


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


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    folder = tmp_path_factory.mktemp("tiny")
    here = tiny_search(folder)
    assert prune([*here, *QUICK["global"], "--output_dir", str(folder / "out")]) == 0
    return here, folder / "out"


@pytest.mark.slow
def test_the_model_that_a_search_has_saved_is_read_and_not_mended_again(
    searched: tuple[list[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, out = searched
    monkeypatch.setattr("greedyprune.api.remake", None)
    output = tmp_path / "slim.safetensors"
    assert main([*here, "--db", str(out / "prune.db"), "--output", str(output)]) == 0
    assert output.read_bytes() == (out / "slim.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_any_trial_is_made_again_by_its_number(number: int, searched: tuple[list[str], Path], tmp_path: Path) -> None:
    here, out = searched
    trials = load_study(str(out / "prune.db")).trials
    output = tmp_path / "slim.safetensors"
    words = ["--db", str(out / "prune.db"), "--trial", str(number), "--output", str(output)]
    assert main([*here, *words]) == 0
    slim = load_model(output)
    assert slim.widths == slim.options.layout.check(trials[number].widths)
    data = open_split(Path(here[3]), "val", slim.classes, eval_transform(48, 96))
    assert evaluate(slim, data, latency_runs=0).accuracy["AP"] == pytest.approx(trials[number].full_map, abs=2e-3)


@pytest.mark.slow
def test_a_file_that_is_not_the_searchs_any_more_is_not_taken_for_it(
    searched: tuple[list[str], Path], tmp_path: Path
) -> None:
    here, out = searched
    folder = shutil.copytree(out, tmp_path / "out")
    content = (folder / "slim.safetensors").read_bytes()
    (folder / "slim.safetensors").write_bytes(Path(here[1]).read_bytes())
    output = tmp_path / "slim.safetensors"
    assert main([*here, "--db", str(folder / "prune.db"), "--output", str(output)]) == 0
    assert output.read_bytes() == content


@pytest.mark.parametrize("what", ["weights", "data", pytest.param("not finished", marks=pytest.mark.slow)])
def test_what_the_search_did_not_run_on_is_refused(
    what: str, searched: tuple[list[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, out = searched
    words, db = list(here), out / "prune.db"
    message = "searched other weights; give the dense checkpoint that it ran on"
    if what == "weights":
        model = load_model(here[1])
        with torch.no_grad():
            next(model.parameters()).add_(1.0)
        save_checkpoint(model, tmp_path / "other.safetensors")
        words[1] = str(tmp_path / "other.safetensors")
    if what == "data":
        message = "was made with other training images; give its --coco_path"
        write_tiny(tmp_path / "data", 9, "train")
        write_tiny(tmp_path / "data", 8, "val")
        words[3] = str(tmp_path / "data")
    if what == "not finished":
        message, db = r"the search is not finished \(1 trials are done\)", tmp_path / "prune.db"
        add, added = Study.add, []

        def stop(study: Study, trial: Trial) -> None:
            if added:
                raise KeyboardInterrupt
            added.append(trial)
            add(study, trial)

        monkeypatch.setattr(Study, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            prune([*here, *QUICK["global"], "--output_dir", str(tmp_path)])
    with pytest.raises(UserError, match=message):
        main([*words, "--db", str(db), "--trial", "0", "--output", str(tmp_path / "slim.safetensors")])
    assert not (tmp_path / "slim.safetensors").exists()
