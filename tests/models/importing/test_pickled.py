import builtins
import fractions
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from greedyprune import UserError, load_model
from greedyprune.models import read_checkpoint
from greedyprune.models.importing.pickled import read_pickled

from ..small_model import ARGUMENTS, published, refused
from .small_pickles import build, call, dict_of, name, number, text, tuple_of, write_zip


def test_arguments_of_other_python_and_numpy_versions_are_read_as_data(dense, tmp_path):
    path = tmp_path / "arguments.pth"
    torch.save({"model": published(dense), "args": ARGUMENTS}, path)
    arguments = read_checkpoint(path)[2]
    assert arguments["nheads"] == 4
    assert arguments["pe_temperatureH"] == 10.0
    assert arguments["dilation"] is False
    assert arguments["output_dir"] == "logs/run 1"
    assert arguments["best"] == {"epoch": 3}
    assert arguments["nested"].name == "coco"
    # The same file as NumPy 1 and Python 3.13 on Windows would have written it.
    names = {
        b"numpy._core.multiarray\n": b"numpy.core.multiarray\n",
        b"pathlib\nPosixPath\n": b"pathlib._local\nWindowsPath\n",
    }
    other = tmp_path / "other.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            for here, there in names.items() if entry.filename.endswith("data.pkl") else ():
                assert here in data
                data = data.replace(here, there)
            target.writestr(entry, data)
    again = read_checkpoint(other)[2]
    assert again.keys() == arguments.keys()
    assert (again["nheads"], again["output_dir"]) == (4, "logs/run 1")


def test_loading_leaves_the_types_that_others_allowed_as_they_were(dense, tmp_path):
    torch.save({"model": published(dense), "args": ARGUMENTS}, tmp_path / "a.pth")
    before = set(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals([Path])
    load_model(tmp_path / "a.pth")
    try:
        assert {Path, *before} <= set(torch.serialization.get_safe_globals())
        with pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / "a.pth", weights_only=True)
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(before))


class Opens:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return builtins.open, (str(self.path), "w")


class Shells(Opens):
    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Imports(Opens):
    def __reduce__(self):
        return builtins.exec, (f"open({str(self.path)!r}, 'w')",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize("evil", [Opens, Shells, Imports])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path, evil, zipped):
    trap = tmp_path / "trap"
    pickle.loads(pickle.dumps(evil(trap)))  # the trap works
    assert trap.exists()
    trap.unlink()
    path = tmp_path / "evil.pth"
    content = {"model": {"weight": torch.zeros(2)}, "args": evil(trap)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    refused(path, "not on the list of safe types")
    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps(content, protocol))
        refused(path)
    assert not trap.exists()


def test_a_type_that_is_not_on_the_list_is_named(dense, tmp_path):
    torch.save({"model": published(dense), "args": fractions.Fraction(1, 2)}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "fractions.Fraction")


FOREIGN = {
    "a class that is called": call("mmengine.config.config.ConfigDict", dict_of(a=number(1))),
    "an object with a state": build(name("mmcv.runner.Hook") + tuple_of() + pickle.NEWOBJ, dict_of(stride=number(2))),
    "a method": call("builtins.getattr", name("mmengine.optim.OneCycle"), text("_annealing")),
    "a method of Python 2's spelling": call("__builtin__.getattr", name("mmdet.models.DETR"), text("forward")),
}


@pytest.mark.parametrize("body", FOREIGN.values(), ids=FOREIGN)
def test_objects_of_mmengine_become_inert(tmp_path, body):
    content = read_pickled(write_zip(tmp_path / "hub.pth", dict_of(hub=body, epoch=number(3))))
    assert content["epoch"] == 3
    assert not vars(content["hub"])


@pytest.mark.parametrize("path", ["mmengine", "mmenginex.config.Config", "os.system", "builtins.eval", "mmdet..x"])
def test_names_that_only_look_like_it_are_refused(tmp_path, path):
    body = call(path, text("true")) if "." in path else b"c\n" + path.encode() + b"\n" + tuple_of() + b"R"
    with pytest.raises(UserError, match=r"not on the list of safe types|broken"):
        read_pickled(write_zip(tmp_path / "hub.pth", dict_of(hub=body)))
