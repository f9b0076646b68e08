"""`tools/prune_greedy.py` where something is in its way: what is said, what is kept, and whether the advice works."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from greedyprune import load_model
from greedyprune.commands.make_shapes import main as make_shapes
from greedyprune.commands.prune import main as prune
from greedyprune.errors import UserError
from greedyprune.study.reading import load_study
from greedyprune.study.study import Study
from greedyprune.study.trial import Trial

from ..helpers.tiny_search import QUICK, tiny_search, told


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return tiny_search(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def data(here: list[str]) -> Path:
    return Path(here[3])


def arguments(here: list[str], output: Path, schedule: str = "global", data: Path | None = None) -> list[str]:
    words = here if data is None else [*here[:3], str(data), *here[4:]]
    return [*words, "--output_dir", str(output), *QUICK[schedule]]


def before_trial(patch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Do something once, while a search writes a trial."""
    add, left = Study.add, [act]

    def act_and_add(study: Study, trial: Trial) -> None:
        if left and len(study.trials()) == number:
            left.pop()()
        add(study, trial)

    patch.setattr(Study, "add", act_and_add)


def stop() -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["global", "gp"])
def test_a_database_that_is_deleted_ends_the_search_with_files_of_what_is_known_and_trials_to_go_on_from(
    schedule: str, here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, troubled = tmp_path / "calm", tmp_path / "troubled"
    assert prune(arguments(here, calm, schedule)) == 0
    undisturbed = load_study(str(calm / "prune.db")).trials
    with monkeypatch.context() as patch:
        before_trial(patch, 2, (troubled / "prune.db").unlink)
        with pytest.raises(UserError) as refusal:
            prune(arguments(here, troubled, schedule))
    assert str(refusal.value) == (
        f"study 'prune-{schedule}' in {troubled}/prune.db is gone: the file was deleted or moved; its 3 trials are "
        f"saved: go on with --db {troubled}/rescued.db. The files in {troubled} are of the best that was found until "
        "then"
    )
    files = {"slim.safetensors", "cfgs.json", "result.json", "rescued.db"}
    assert {path.name for path in troubled.iterdir()} == files | ({"pareto.png"} if schedule == "global" else set())
    slim, result = load_model(troubled / "slim.safetensors"), json.loads((troubled / "result.json").read_text())
    assert (
        slim.options.layout.to_list(slim.widths) == result["cfgs"] == json.loads((troubled / "cfgs.json").read_text())
    )

    assert prune([*arguments(here, troubled, schedule), "--db", str(troubled / "rescued.db")]) == 0
    assert told(load_study(str(troubled / "rescued.db")).trials) == told(undisturbed)
    assert (troubled / "cfgs.json").read_text() == (calm / "cfgs.json").read_text()
    one, other = (load_model(folder / "slim.safetensors").state_dict() for folder in (calm, troubled))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_database_that_is_deleted_before_the_first_trial_leaves_nothing_to_save(
    here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the dense model was measured: nothing is written beside what was deleted."""
    set_baseline = Study.set_baseline

    def delete_first(study: Study, baseline: Any) -> None:
        (tmp_path / "prune.db").unlink()
        set_baseline(study, baseline)

    monkeypatch.setattr(Study, "set_baseline", delete_first)
    with pytest.raises(UserError, match="is gone: the file was deleted or moved; no trial was finished yet: repeat"):
        prune(arguments(here, tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_larger_share_works_where_it_is_advised(
    here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [word for word in arguments(here, tmp_path) if word not in ("--map_tol", "0.3")]
    with pytest.raises(UserError, match=r"--target_flops 0\.1 cannot be reached: .*; give a larger share"):
        prune([*words, "--target_flops", "0.1"])
    before_trial(monkeypatch, 0, stop)
    with pytest.raises(KeyboardInterrupt):
        prune([*words, "--target_flops", "0.9995"])
    assert load_study(str(tmp_path / "prune.db")).settings["budget"] == 0.9995


def change_val(data: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a data set with other annotations of its validation images."""
    shutil.copytree(data, folder)
    path = folder / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return folder


def no_boxes(content: dict[str, Any]) -> None:
    content["annotations"] = []


def foreign_ids(content: dict[str, Any]) -> None:
    ids = [category["id"] for category in content["categories"]]
    for annotation in content["annotations"]:
        annotation["category_id"] = ids[ids.index(annotation["category_id"]) - 1]


def other_places(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        annotation["bbox"] = [0, 0, 3, 3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_boxes, r"\(AP -1.0000\).*the 8 images have no boxes to find"),
        pytest.param(other_places, r"\(AP 0.0000\).*the checkpoint may be untrained", marks=pytest.mark.slow),
    ],
)
def test_a_detector_that_finds_nothing_is_refused_with_why(
    change: Callable[[dict[str, Any]], None], words: str, here: list[str], data: Path, tmp_path: Path
) -> None:
    changed = change_val(data, tmp_path / "data", change)
    with pytest.raises(UserError, match=words):
        prune(arguments(here, tmp_path / "out", data=changed))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["prune.db"]


@pytest.mark.slow
def test_category_ids_that_seem_to_mean_other_classes_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_shapes([str(tmp_path / "shapes"), "--train_images", "2", "--val_images", "6", "--workers", "1"])
    data = change_val(tmp_path / "shapes", tmp_path / "data", foreign_ids)
    before_trial(monkeypatch, 0, stop)
    words = ["--schedule", "gp", "--attn_step", "128", "--score_images", "1", "--device", "cpu"]
    with pytest.raises(KeyboardInterrupt):
        prune(["--coco_path", str(data), "--output_dir", str(tmp_path / "out"), *words])
    assert "the data seem to mean other classes to this model" in capsys.readouterr().err


@pytest.mark.slow
def test_a_larger_subset_works_where_it_is_advised(
    here: list[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_image(content: dict[str, Any]) -> None:
        last = max(image["id"] for image in content["images"])
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] == last]

    changed = change_val(data, tmp_path / "data", one_image)
    with pytest.raises(UserError, match=r"the 1 images have no boxes to find.*Give a larger --subset_images"):
        prune([*arguments(here, tmp_path / "out", data=changed), "--subset_images", "1"])
    before_trial(monkeypatch, 0, stop)
    with pytest.raises(KeyboardInterrupt):
        prune([*arguments(here, tmp_path / "out", data=changed), "--subset_images", "8"])


def test_training_images_without_objects_are_told(here: list[str], data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    path = tmp_path / "data" / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    with pytest.raises(UserError, match=r"no training image in .*train2017 has an object"):
        prune(arguments(here, tmp_path / "out", data=tmp_path / "data"))


NOWHERE = ["--coco_path", "nowhere"]  # what is asked of options comes before the data


@pytest.mark.parametrize(
    "words",
    """--schedule gp --target_flops 0.9 : target_flops
--schedule gp --cost params : cost
--schedule gp --refit : refit
--schedule gp --no-refit : no-refit
--schedule gp --scorer basis : scorer
--schedule gp --prune queries : prune queries
--schedule gp --prune encoder layers : prune layers
--schedule gp --query_step 2 : query_step
--schedule gp --prune backbone --attn.num_evaluate 3 : attn.num_evaluate
--prune encoder --mlp_step 8 : mlp_step
--prune encoder --query_step 8 : query_step
--prune heads --ffn_step 8 : ffn_step
--schedule gp --rounds 3 : rounds
--schedule gp --mend_steps 0 : mend_steps
--schedule gp --mends 1 : mends
--schedule gp --mend_images 10 : mend_images
--schedule gp --mend_augment flips : mend_augment
--schedule gp --calib_images 10 : calib_images
--schedule gp --pareto : pareto
--schedule modular --refine 3 : refine
--schedule modular --sampler tpe : sampler
--schedule modular --site_decay 0.1 : site_decay
--schedule modular --conv_step 16 : conv_step
--schedule gp --map_tol 0.1 --attn.map_tol 0.1 --ffn.map_tol 0.1 : map_tol
--site_decay 0.1 : site_decay
--num_evaluate 3 : num_evaluate
--attn.map_tol 0.1 : attn.map_tol
--ffn.num_evaluate 3 : ffn.num_evaluate
--attn.skip_eval_converge 0.1 : attn.skip_eval_converge
--map_tol 0.02 --target_flops 0.9 : map_tol
--skip_eval_converge 0.02 --target_params 0.9 : skip_eval_converge
--mends 2 --target_flops 0.9 : mends
--mends 2 --mend_steps 0 : mends
--mend_steps 100 --mends 0 : mend_steps
--mend_images 10 --mends 0 : mend_images
--mend_augment flips : mend_augment
--conv_step 16 : conv_step
--sampler nsgaii : sampler
--subset_images 100 --eval_images 50 : subset_images
--prune backbone --attn_step 1 : attn_step
--prune backbone --ffn_step 32 : ffn_step
--prune backbone --whole_heads : whole_heads
--schedule gp --no-refit : no-refit""".splitlines(),
)
def test_an_option_that_does_nothing_is_refused_by_name(words: str, here: list[str]) -> None:
    given, named = words.split(" : ")
    with pytest.raises(UserError, match=rf"^--{named} does nothing in this call: .*; leave it out$"):
        prune([*here[:2], *NOWHERE, *given.split()])


@pytest.mark.parametrize(
    "words",
    """--map_tol 0.02
--target_flops 0.9 --cost flops
--target_latency 0.9 --mends 1
--schedule gp --scorer exact --prune transformer
--schedule gp --map_tol 0.1 --attn.map_tol 0.2
--mend_steps 0 --mends 0
--mend_steps 3000 --mends 3
--prune all --scorer select --conv_step 8 --mend_augment flips
--prune backbone --refit --mend_steps 3000
--refine 3 --sampler nsgaii --pareto
--prune backbone --no-refit --scorer magnitude
--prune all --scorer taylor
--schedule gp --prune all --conv_step 16
--eval_images 50
--schedule modular --skip_eval_converge 0.01""".splitlines(),
)
def test_options_that_do_something_are_taken(words: str, here: list[str]) -> None:
    with pytest.raises(UserError, match="nowhere"):
        prune([*here[:2], *NOWHERE, *words.split()])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "--attn.map_tol nan --schedule gp",
            "argument --attn.map_tol: 'nan' is not a number of at least 0 and below 1",
        ),
        ("--map_tol 1", "argument --map_tol: '1' is not a number of at least 0 and below 1"),
        ("--target_flops 1", "argument --target_flops: '1' is not a number above 0 and below 1"),
        ("--target_params 0", "argument --target_params: '0' is not"),
        ("--seed -1", "argument --seed: '-1' is not a whole number of at least 0"),
        (f"--seed {2**63}", "argument --seed: "),
        ("--ffn.num_evaluate 1.5", "argument --ffn.num_evaluate: '1.5' is not a whole number"),
        ("--site_decay inf --schedule gp", "argument --site_decay: 'inf' is not"),
        ("--db=", "argument --db: '' is empty"),
        ("--study=", "argument --study: '' is empty"),
        (f"--study={'x' * 201}", "--study 'xxx"),
    ],
)
def test_a_value_out_of_range_is_told_by_its_own_flag(words: str, line: str, here: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        prune([*here, "--output_dir", str(tmp_path), *words.split()])
    assert str(told.value).startswith(line)
