"""Blocks of convolutions that leave a Darknet detector, whose cfg then says so."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import greedyprune
from greedyprune import UserError
from greedyprune.classical import METHODS, Subject
from greedyprune.families import family_of
from greedyprune.models.darknet.cfg import Convolutional
from greedyprune.models.darknet.files import find_layers
from greedyprune.models.darknet.network import Darknet

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    return greedyprune.load("yolov2_shapes")


def test_blocks_are_the_shortest_runs_whose_input_and_output_have_one_shape(model):
    found = family_of(model).removable(model)
    assert found == ["layers 6 to 7", "layers 10 to 11", "layers 12 to 13"]
    with torch.device("meta"):
        full = Darknet(find_layers(Path("yolov2-voc"), None, None)[0])
    # 128-64-128, 256-128-256, twice 512-256-512, twice 1024-512-1024, and two of 1024 that keep their width.
    assert [label.split()[1::2] for label in family_of(full).removable(full)] == [
        ["5", "6"],
        ["9", "10"],
        ["13", "14"],
        ["15", "16"],
        ["19", "20"],
        ["21", "22"],
        ["23", "23"],
        ["24", "24"],
    ]


def test_without_a_block_the_rest_runs_as_it_did_and_the_file_knows_it(model, tmp_path):
    family = family_of(model)
    for label in family.removable(model):
        slim = family.slim(model, family.without(model, [label]))
        by_hand = copy.deepcopy(model)
        first, last = (int(word) for word in label.split() if word.isdigit())
        for number in range(first, last + 1):
            by_hand.layers[number] = nn.Identity()
        with torch.no_grad():
            assert torch.equal(slim(IMAGES), by_hand(IMAGES))
        greedyprune.save(slim, tmp_path / "slim.safetensors")
        loaded = greedyprune.load(tmp_path / "slim.safetensors")
        with torch.no_grad():
            assert torch.equal(loaded(IMAGES), slim(IMAGES))
        assert len(loaded.convolutions) == len(model.convolutions) - (last + 1 - first)
        assert sum(isinstance(layer, Convolutional) for layer in loaded.cfg.layers) == len(loaded.convolutions)
    assert len(model.convolutions) == 14


def test_layers_leave_from_the_end_and_no_more_than_there_are(model):
    family = family_of(model)
    subject, parts = Subject(family, model), family.removable(model)
    one = METHODS["layers"].apply(subject, 1)
    expected = family.slim(model, family.without(model, parts[-1:]))
    with torch.no_grad():
        assert torch.equal(one(IMAGES), expected(IMAGES))
    none_left = METHODS["layers"].apply(subject, len(parts))
    assert family.removable(none_left) == []
    with pytest.raises(UserError, match=rf"layers: {len(parts) + 1} parts are to leave, and {len(parts)} can"):
        METHODS["layers"].apply(subject, len(parts) + 1)
