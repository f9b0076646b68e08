"""What a proposal costs by its widths is what the slim model of these widths costs."""

import random

import pytest

from greedyprune.evaluation.profile import WHOLE, count_flops, count_parameters
from greedyprune.pruning.transplant import shape_change
from greedyprune.search.cost import CostModel

from ..helpers.engine import EVERY_KIND, GRID, Subject, bits, subject, unchanged

SIZE = (64, 96)
FAST = ("dn_detr", GRID)
SUBJECTS = [
    *(pytest.param(kind, {}, marks=[] if kind in FAST else pytest.mark.slow, id=kind) for kind in EVERY_KIND),
    pytest.param("dn_detr", {"whole_heads": True}, marks=pytest.mark.slow, id="whole heads"),
]


def counted(made: Subject, widths: dict[str, int]) -> tuple[int, int]:
    """Parameters and multiply-adds of the slim model, as it is deployed."""
    slim = made.family.slim(made.model, shape_change(made.sites, made.model.state_dict(), widths))
    flops = count_flops(made.family, made.family.deployed(slim, SIZE), SIZE)
    return count_parameters(made.family, slim)[WHOLE], flops[WHOLE]


@pytest.mark.parametrize(("kind", "options"), SUBJECTS)
def test_cost_by_widths_is_that_of_the_slim_model(kind: str, options: dict[str, bool]) -> None:
    made = subject(kind, **options)
    cost = CostModel(made.family, made.model, made.sites, SIZE)
    before = bits(made.model)
    assert (cost.dense.params, cost.dense.flops) == counted(made, {})
    rng = random.Random(0)
    widths = {
        site.name: site.full if site.least == 0 else site.grain * rng.randint(1, site.full // site.grain)
        for site in made.sites
    }
    layers = [site.name for site in made.sites if site.least == 0]
    for gone in ([], layers[:1], layers[-1:]):
        asked = widths | dict.fromkeys(gone, 0)
        found = cost(asked)
        assert (found.params, found.flops) == counted(made, asked)
        assert found.params < cost.dense.params
        assert found.flops < cost.dense.flops
    assert unchanged(made.model, before)


def test_what_sites_cost_alone_is_linear_and_adds_up_to_their_layer() -> None:
    made, what = subject(), "flops"
    cost = CostModel(made.family, made.model, made.sites, SIZE)
    for site in made.sites:
        alone = [cost.alone(site.name, width, what) for width in (site.least, site.full)]
        narrow = cost({site.name: site.least}).of(what)
        inner = sum(cost.alone(other.name, other.full, what) for other in made.sites if other.inside == site.name)
        assert alone[1] - alone[0] + inner == pytest.approx(cost.dense.of(what) - narrow)
    ffn = made.site("encoder.1.ffn")
    half = cost({ffn.name: ffn.full // 2}).of(what)
    assert cost.dense.of(what) - half == pytest.approx(cost.alone(ffn.name, ffn.full // 2, what))
