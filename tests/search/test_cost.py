"""What a proposal costs by its widths is what the slim model of these widths costs."""

import random

import pytest
from greedyprune.pruning.sites import list_sites

from greedyprune import build_model
from greedyprune.evaluation.profile import count_flops, count_parameters
from greedyprune.models import MODELS
from greedyprune.search.cost import CostModel

SHAPE = {"hidden_dim": 32, "heads": 4, "enc_layers": 1, "dec_layers": 2, "ffn_dim": 40, "num_queries": 6}


@pytest.mark.parametrize("whole_heads", [False, True], ids=["channels", "whole heads"])
@pytest.mark.parametrize("name", MODELS)
def test_cost_by_widths_is_that_of_the_slim_model(name: str, whole_heads: bool) -> None:
    model = build_model(name, num_classes=5, backbone="small", whole_heads=whole_heads, **SHAPE)
    cost = CostModel(model, (64, 96))
    rng = random.Random(0)
    widths = {site.name: site.grain * rng.randint(1, site.width // site.grain) for site in list_sites(model)}
    slim = type(model)(model.options, model.cfgs.replace(widths)).eval()
    assert cost(widths) == (count_parameters(slim)[0], count_flops(slim, (64, 96))[0])
    assert cost(widths) < cost(model.cfgs.widths())
