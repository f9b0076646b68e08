import json
from pathlib import Path

import pytest

from greedyprune import build_model

CFGS = Path(__file__).parents[2] / "cfgs"


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_dense_model_has_the_published_number_of_parameters():
    model = build_model("dn_detr")
    assert count(model) == 43_694_977
    assert count(model.transformer) == 19_667_474
    assert count(model.bbox_embed) == 132_612


@pytest.mark.parametrize(("name", "transformer"), [("gp", 12_863_330), ("mgp", 10_467_714)])
def test_the_published_width_lists_give_the_published_numbers(name, transformer):
    model = build_model("dn_detr", json.loads((CFGS / f"dn_detr_r50_{name}.json").read_text()))
    assert count(model.transformer) == transformer
    assert count(model) == 43_694_977 - 19_667_474 + transformer
