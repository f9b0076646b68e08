"""Imports run downwards: what docs/ARCHITECTURE.md says of the rooms is what their sources do."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "greedyprune"
PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
ROW = re.compile(r"^\| `(\w+)(?:\.py)?` \|([\w, ]*)\|", re.MULTILINE)
TOLD = {name: [each.strip() for each in imports.split(",") if each.strip()] for name, imports in ROW.findall(PAGE)}
ROOMS = [name for name in TOLD if name != "commands"]  # which may import all of them


def imported(room: str) -> dict[str, set[str]]:
    """The modules of this package that each file of a room imports, at any depth of its code."""
    files = [PACKAGE / f"{room}.py"] if room == "api" else sorted((PACKAGE / room).rglob("*.py"))
    found: dict[str, set[str]] = {}
    for file in files:
        nodes = list(ast.walk(ast.parse(file.read_text())))
        names = {each.name for node in nodes if isinstance(node, ast.Import) for each in node.names}
        names |= {f"{n.module}.{each.name}" for n in nodes if isinstance(n, ast.ImportFrom) for each in n.names}
        found[str(file)] = {name for name in names if name.startswith("greedyprune.")}
    return found


def test_the_page_has_every_room():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {*ROOMS, "commands"} == folders | {"api"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_the_page_says_and_nothing_above_it(room):
    names = {name.split(".")[1] for modules in imported(room).values() for name in modules}
    assert sorted(names & {*ROOMS, "commands"} - {room}) == sorted(TOLD[room])
    assert all(ROOMS.index(each) < ROOMS.index(room) for each in TOLD[room])


@pytest.mark.parametrize("room", ["pruning", "search"])
def test_the_engine_knows_no_model(room):
    for file, modules in imported(room).items():
        asked = {name for name in modules if name.startswith(("greedyprune.families", "greedyprune.models"))}
        assert all(name.startswith("greedyprune.families.base.") for name in asked), file
        assert not re.search(r"Detector\b|transformer\.|decoder\.layers|backbone\.0", Path(file).read_text()), file


def test_the_files_that_pages_name_are_there():
    for page in ("ARCHITECTURE", "EXTENDING", "ALGORITHM", "SCHEDULES", "GUIDE"):
        for name in re.findall(r"`([\w/]+\.py)`", (ROOT / "docs" / f"{page}.md").read_text()):
            assert any((place / name).is_file() for place in (PACKAGE, ROOT, ROOT / "tools")), f"{page}: {name}"
