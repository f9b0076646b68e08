"""What the documentation shows is run as it stands."""

import argparse
import doctest
import re
import shlex
import shutil
from functools import partial
from pathlib import Path

import pytest

import greedyprune
from greedyprune import api, classical, families
from greedyprune.cli import DEMO_MODEL, open_model, opening_options
from greedyprune.commands import (
    bench_scorers,
    bench_search,
    convert,
    eval,
    import_hf,
    pretrain_backbone,
    prune_options,
    save,
    study,
    train,
    transplant,
)
from greedyprune.commands.make_shapes import main as make_shapes
from greedyprune.commands.prune_needs import Call, check_needs
from greedyprune.pruning import kinds, scorers
from greedyprune.search import cost, options, phases
from greedyprune.search.setup import searched_sites

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PARSE = {
    "train": train._parse,
    **{
        tool.__name__.rsplit(".")[-1]: tool.parser().parse_args
        for tool in (bench_scorers, bench_search, convert, eval, import_hf)
    },
    **{
        tool.__name__.rsplit(".")[-1]: tool.parser().parse_args for tool in (pretrain_backbone, save, study, transplant)
    },
}
LONGEST = 30  # lines of code of an example
# Everything that a registration adds to.
TABLES = (scorers.ORDERS, classical.METHODS, kinds.KINDS, phases.PHASES, phases.SCHEDULES, cost.COUNTED)
LISTS = (scorers.SCORERS, options.SCHEDULES, options.COSTS, families._FAMILIES)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a dense checkpoint and a little data, as the examples name them."""
    make_shapes([str(tmp_path / "coco"), "--train_images", "8", "--val_images", "12", "--workers", "1"])
    shutil.copy(DEMO_MODEL, tmp_path / "dense.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """Searches of examples are over in seconds."""
    little = options.SearchImages(subset_images=6, score_images=2, calib_images=6)
    steps, mend = options.Steps(attn=8, ffn=256), options.MendOptions(steps=0)
    made = partial(options.SearchOptions, images=little, steps=steps, mend=mend, prune=("encoder",))
    monkeypatch.setattr(greedyprune, "SearchOptions", made)


@pytest.fixture
def registered():
    """What examples register is forgotten after them."""
    tables, lists = [dict(table) for table in TABLES], [list(each) for each in LISTS]
    yield
    for table, before in zip(TABLES, tables, strict=True):
        table.clear()
        table.update(before)
    for each, before in zip(LISTS, lists, strict=True):
        each[:] = before


def blocks(path: str) -> list[str]:
    return BLOCK.findall((ROOT / path).read_text())


def run(path: str) -> dict[str, object]:
    """A page's blocks as one program; a failure shows the line of the page."""
    text = (ROOT / path).read_text()
    names: dict[str, object] = {"__name__": "examples"}
    for found in BLOCK.finditer(text):
        source = "\n" * text.count("\n", 0, found.start(1)) + found[1]
        exec(compile(source, path, "exec"), names)
    return names


@pytest.mark.slow
def test_the_examples_of_extending_work_together(folder, registered):
    names = run("docs/EXTENDING.md")
    torch, family, dense = names["torch"], names["RankedFamily"](), names["dense"]
    kept = {"head": (0, 1, 2, 4)}
    off = names["greedyprune"].pruning.transplant.masked(family, dense, kept)
    for one, other in zip(off(names["images"]), names["slim"](names["images"]), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_the_examples_of_the_readme_and_of_the_guide_work(folder, quick):
    result = run("README.md")["result"]
    assert result.path.is_file()
    assert 0 < result.baseline.full_map < 1
    assert len(run("docs/GUIDE.md")["half"].transformer.encoder.layers[0].linear1.weight) == 64


@pytest.mark.slow
def test_the_examples_of_docstrings_work(folder, quick):
    greedyprune.save(greedyprune.load("dense.safetensors"), "slim.safetensors")
    tests = [test for test in doctest.DocTestFinder().find(api) if test.examples]
    assert {test.name.rsplit(".")[-1] for test in tests} >= {"load", "save", "transplant", "prune"}
    for test in tests:
        names = {"greedyprune": greedyprune, "model": greedyprune.load("dense.safetensors")}
        for example in test.examples:
            exec(example.source, names)


def test_the_readme_fits_and_leads_to_files_that_are_there():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_an_example_is_short():
    for block in (*blocks("docs/EXTENDING.md"), *blocks("README.md")):
        code = [line for line in block.splitlines() if line.strip() and not line.startswith(("import ", "from "))]
        assert len(code) <= LONGEST, block


def test_a_name_is_registered_once(registered):
    scorers.register("mine")(scorers.ORDERS["random"])
    phases.register("mine", phases.PHASES["budget"])
    cost.register("mine", cost.Counted("mine", lambda family, model, size: 1.0))
    for again in (
        lambda: scorers.register("mine")(scorers.ORDERS["random"]),
        lambda: phases.register("mine"),
        lambda: cost.register("mine", cost.COUNTED["mine"]),
        lambda: kinds.register(*next(iter(kinds.KINDS.items()))),
        lambda: phases.register("other", type("Other", (phases.Phase,), {"name": "budget"})),
    ):
        with pytest.raises(ValueError, match="already"):
            again()


def commands() -> list[list[str]]:
    """The words of every call of a tool that the README and the pages show, in code or in a table."""
    text = "\n".join(page.read_text() for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    text = text.replace("\\\n", " ")
    found = re.findall(r"^ {4}(python tools/[^\n]+)|`(python tools/[^`]+)`", text, re.MULTILINE)
    words = (shlex.split(one or other, comments=True) for one, other in found)
    return [each for each in words if "gpu_check" not in each[1]]  # which has no options of its own


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_that_is_shown_is_understood(words):
    tool = Path(words[1]).stem
    if tool.startswith("prune_greedy"):
        schedule = "modular" if tool.endswith("_ad") else "global"
        args = prune_options.parser(schedule).parse_args(words[2:])
        asked = prune_options.search_options(args, schedule)
        asked_of_demo = dict.fromkeys(("cfgs", *opening_options(args)))
        model = open_model(argparse.Namespace(**{**vars(args), **asked_of_demo, "resume": DEMO_MODEL}))
        sites = searched_sites(families.family_of(model), model, asked)
        check_needs(Call(args, asked, sites))
    else:
        PARSE[tool](words[2:])
