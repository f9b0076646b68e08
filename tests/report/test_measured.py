"""What a benchmark measured is in a file that says by which code, with which command and on what."""

import json
import subprocess
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import torch

from greedyprune.errors import UserError
from greedyprune.report import measured
from greedyprune.report.measured import Circumstances, check_output

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Row:
    name: str
    value: float
    parts: dict[str, float]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package's folder in a repository of its own."""
    folder = tmp_path / "repository" / "package"
    folder.mkdir(parents=True)
    (folder / "code.py").write_text("")
    monkeypatch.setattr(measured, "_PACKAGE", folder)
    return folder


def git(folder: Path, *words: str) -> str:
    own = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    done = subprocess.run(["git", *own, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_rows_come_with_command_date_commit_and_machine(tmp_path: Path) -> None:
    began = datetime.now(timezone.utc) - timedelta(seconds=1)
    path = tmp_path / "there" / "measured.json"
    now = Circumstances.now("bench", ["--widths", "[[1, 2]]", "--seed", "3"], CPU)
    now.write(path, {"images": 5}, {"speed": [Row("a", 0.5, {"x": 1.0})], "empty": []})
    found = json.loads(path.read_text())
    assert found["command"] == "python tools/bench.py --widths '[[1, 2]]' --seed 3"
    assert began < datetime.fromisoformat(found["date"]) <= datetime.now(timezone.utc)
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["machine"]["pytorch"] == torch.__version__
    assert found["machine"]["device"] == "cpu"
    assert found["machine"]["cpu"]
    assert found["about"] == {"images": 5}
    assert found["tables"] == {"speed": [{"name": "a", "value": 0.5, "parts": {"x": 1.0}}], "empty": []}


def test_the_commit_is_that_of_the_code_and_changes_of_it_are_told(package: Path) -> None:
    git(package, "init", "-q")
    assert Circumstances.now("bench", [], CPU).commit is None  # of another project, in whose folder it is installed
    git(package, "add", ".")
    git(package, "commit", "-q", "-m", "all")
    now = Circumstances.now("bench", [], CPU)
    assert (now.commit, now.changed) == (git(package, "rev-parse", "HEAD"), False)
    (package.parent / "notes").write_text("")
    (package / "measured.json").write_text("")
    assert not Circumstances.now("bench", [], CPU).changed
    (package / "code.py").write_text("more = 1")
    assert Circumstances.now("bench", [], CPU).changed


def test_without_a_repository_or_git_there_is_no_commit(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(package.parent))
    assert Circumstances.now("bench", [], CPU).commit is None
    monkeypatch.setenv("PATH", "")
    now = Circumstances.now("bench", [], CPU)
    assert (now.commit, now.changed) == (None, False)


def test_what_is_no_number_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    path.write_text("before")
    with pytest.raises(ValueError, match="not JSON compliant"):
        Circumstances.now("bench", [], CPU).write(path, {}, {"speed": [Row("a", float("nan"), {})]})
    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["measured.json"]


def test_a_file_that_cannot_be_written_is_known_before_anything_is_measured(tmp_path: Path) -> None:
    check_output(None, "--json")
    check_output(tmp_path / "new" / "file.json", "--json")
    assert (tmp_path / "new").is_dir()
    with pytest.raises(UserError, match=r"^--json .* is a folder; name a file$"):
        check_output(tmp_path, "--json")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        check_output(tmp_path / "file" / "more.json", "--json")
