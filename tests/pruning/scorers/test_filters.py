"""`filter_l1` and `filter_global` order a site by the weights that write it, and by nothing else."""

import pytest
import torch

from greedyprune.pruning import scorers
from greedyprune.pruning.scorers.filters import filter_global, filter_l1

from ...helpers.engine import GRID, bits, subject


def test_scores_are_sums_and_mean_squares_of_a_convolutions_rows() -> None:
    one = subject(GRID)
    weight = one.model.conv2.weight.detach().double()
    site, state = one.site("conv2"), one.model.state_dict()
    assert torch.allclose(filter_l1(site, state), weight.abs().sum((1, 2, 3)))
    squares = weight.square().mean((1, 2, 3))
    assert torch.allclose(filter_global(site, state), squares / squares.square().sum().sqrt())


def test_of_an_attention_the_rows_of_queries_keys_and_values_count_together() -> None:
    one = subject("deformable")  # whose decoder's self-attention has them stacked
    site = one.site("decoder.0.self")
    name = next(
        part.name for part in site.slices if len(part.roles) == 3 and one.model.state_dict()[part.name].dim() == 2
    )
    packed = one.model.state_dict()[name].double()
    found = filter_l1(site, one.model.state_dict())
    assert torch.allclose(found, packed.abs().sum(1).view(3, -1).sum(0))


@pytest.mark.parametrize("scorer", ["filter_l1", "filter_global"])
def test_readers_norms_and_biases_have_no_say(scorer: str) -> None:
    one = subject("dn_detr")
    before = {
        site.name: scorers.given(one.activations(), one.sites).order(site, scorer) for site in one.part("backbone")
    }
    state = bits(one.model)
    block = one.model.feature_extractor.blocks["body.layer2.1"]
    with torch.no_grad():
        block.conv2.weight[:, 0] *= 100
        for each in (block.bn1.weight, block.bn1.bias, block.bn1.running_var):
            each[0] *= 100
    given = scorers.given(one.activations(), one.sites)
    assert torch.equal(given.order(one.site("backbone.3.conv1"), scorer), before["backbone.3.conv1"])
    with torch.no_grad():
        block.conv1.weight[before["backbone.3.conv1"][0, -1]] *= 100
    first = scorers.given(one.activations(), one.sites).order(one.site("backbone.3.conv1"), scorer)[0, 0]
    assert first == before["backbone.3.conv1"][0, -1]
    assert state
