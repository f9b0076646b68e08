"""The house: arrows run downwards, the engine knows no model, files stay small (DESIGN law 7)."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import greedyprune

PACKAGE = Path(greedyprune.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
ENGINE = [path for path in FILES if path.relative_to(PACKAGE).parts[0] in ("pruning", "search")]
LINES = 400
# Spellings of this project's own detectors.
SPELLINGS = ("Detector", "transformer.", "decoder.layers", "encoder.layers", "backbone.0", "bbox_embed", "class_embed")
# What rooms may import beside what lies below all of them: files of the package itself.
ABOVE_SITES = ("families", "pruning", "search", "models", "study", "report", "training", "evaluation", "data", "cli")


def name_of(path: Path) -> str:
    """A file's dotted name."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path) for path in FILES}


def room(module: str) -> str:
    """The folder that a module lies in; of one in the package itself its own name."""
    return ".".join(module.split(".")[:2])


@cache
def imported(path: Path, typing_too: bool) -> tuple[str, ...]:
    """What `_imported` gives, each once."""
    return tuple(dict.fromkeys(_imported(path, typing_too)))


def _imported(path: Path, typing_too: bool) -> Iterator[str]:
    """The modules of the package that a file imports, anywhere in it.

    Args:
        path: the file.
        typing_too: also what is imported for type checkers alone.
    """
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typing_too:
            skipped |= {inner for each in node.body for inner in ast.walk(each)}
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "greedyprune")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            if node.module and node.module.split(".")[0] == "greedyprune":
                # `from greedyprune.sites import change` is a module, `import Change` a name in one.
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield inner if inner in MODULES else node.module


def arrows(typing_too: bool) -> dict[str, set[str]]:
    """Which rooms a room imports."""
    found: dict[str, set[str]] = {}
    for path in FILES:
        own = room(name_of(path))
        found.setdefault(own, set()).update(room(module) for module in imported(path, typing_too))
    return {own: others - {own} for own, others in found.items()}


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Rooms from which an arrow leads back to them, with the way."""
    found = []
    for start in graph:
        ways = [[start]]
        seen = {start}
        while ways:
            way = ways.pop(0)
            for other in sorted(graph.get(way[-1], ())):
                if other == start:
                    found.append(" > ".join([*way, start]))
                    ways.clear()
                    break
                if other not in seen:
                    seen.add(other)
                    ways.append([*way, other])
    return found


@pytest.mark.parametrize("typing_too", [False, True], ids=["at run time", "for type checkers, too"])
def test_no_room_is_in_a_circle(typing_too: bool) -> None:
    assert circles(arrows(typing_too)) == []


def test_circles_are_found() -> None:
    assert arrows(typing_too=True)["greedyprune.search"] >= {"greedyprune.pruning", "greedyprune.sites"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [
        "a > b > c > a",
        "b > c > a > b",
        "c > a > b > c",
    ]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_the_engine_knows_no_model() -> None:
    found = []
    for path in ENGINE:
        for module in imported(path, typing_too=True):
            family = room(module) == "greedyprune.families" and module != "greedyprune.families.base"
            if family or room(module) == "greedyprune.models":
                found.append(f"{name_of(path)} imports {module}")
        text = path.read_text()
        found += [f"{name_of(path)} spells {spelling}" for spelling in SPELLINGS if spelling in text]
    assert not found


def test_parts_of_pruning_hand_no_untyped_dictionaries_to_each_other() -> None:
    found = []
    for path in ENGINE:
        if room(name_of(path)) != "greedyprune.pruning":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                types = [each.annotation for each in given] + [node.returns]
                written = [ast.unparse(each) for each in types if each is not None]
                found += [f"{name_of(path)}.{node.name}" for each in written if each == "dict[str, Any]"]
    assert not found


def test_sites_import_nothing_that_stands_above_them() -> None:
    above = {f"greedyprune.{name}" for name in ABOVE_SITES}
    for path in (PACKAGE / "sites").glob("*.py"):
        assert not above & {room(module) for module in imported(path, typing_too=True)}, path


def test_no_file_is_long_or_holds_what_has_no_place() -> None:
    lines = {name_of(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > LINES} == {}
    assert not [path for path in FILES if path.name == "utils.py"]
