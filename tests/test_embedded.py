"""Shipped detectors go by their names."""

from pathlib import Path

import pytest

import greedyprune
from greedyprune import UserError
from greedyprune.embedded import ASSETS, DEMO_MODEL, checkpoint_path, embedded_names, named
from greedyprune.models.darknet.files import packaged

SETUP = (Path(__file__).parents[1] / "setup.cfg").read_text()


def test_a_name_stands_for_the_shipped_file_unless_there_is_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "shapes_dn_detr" in embedded_names()
    assert checkpoint_path("shapes_dn_detr") == DEMO_MODEL
    (tmp_path / "shapes_dn_detr").write_text("mine")
    assert checkpoint_path("shapes_dn_detr") == Path("shapes_dn_detr")
    assert checkpoint_path("elsewhere/shapes_dn_detr") == Path("elsewhere/shapes_dn_detr")


def test_what_is_told_of_a_checkpoint_can_be_typed_again():
    assert all(checkpoint_path(named(checkpoint_path(name))) == checkpoint_path(name) for name in embedded_names())
    assert named(Path("runs/slim.safetensors")) == "runs/slim.safetensors"


def test_every_shipped_detector_loads_by_its_name():
    for name in embedded_names():
        assert not greedyprune.load(name).training
    with pytest.raises(UserError, match="does not exist"):
        greedyprune.load("no_such_detector")


def test_whatever_is_shipped_is_installed():
    assert {"yolov2-voc.cfg", "tiny-yolo-voc.cfg", "yolov2-shapes.cfg"} <= set(packaged())
    [installed] = [line for line in SETUP.splitlines() if line.startswith("greedyprune = py.typed")]
    assert all(f"assets/*{path.suffix}" in installed for path in ASSETS.iterdir())
