"""What is saved: by count, or by the clock."""

import pytest
import torch
from greedyprune.pruning.sites import list_sites
from greedyprune.search.global_search import check_budget

from greedyprune import UserError, build_model
from greedyprune.search.cost import CostModel
from greedyprune.search.latency import measure_sites
from greedyprune.search.saving import Saving


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    shape = {"hidden_dim": 32, "heads": 4, "enc_layers": 1, "dec_layers": 1, "ffn_dim": 64, "num_queries": 9}
    return build_model("dn_detr", num_classes=4, backbone="small", **shape).eval()


def step(kind: str) -> int:
    return 8


@pytest.mark.parametrize("kind", ["flops", "params"])
@pytest.mark.parametrize("prune", ["transformer", "all"])
def test_shares_of_the_sites_and_of_the_model_are_of_what_is_really_counted(model, kind: str, prune: str) -> None:
    cost = CostModel(model, (64, 96), prune)
    saving = Saving(cost, kind)
    widths = {name: max(1, width // 2) for name, width in cost.full.items()}
    index = 1 if kind == "flops" else 0
    assert saving.share_with(widths) == pytest.approx(cost(widths)[index] / cost(cost.full)[index])
    budget = saving.share_with(widths)
    assert saving.sites_share(budget) * saving.sites == pytest.approx(saving.of_sites(widths))


@pytest.mark.parametrize("prune", ["transformer", "all"])
def test_every_site_is_timed_at_its_widths_and_the_model_is_as_before(model, prune: str) -> None:
    sites = list_sites(model, prune)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table = measure_sites(model, sites, [torch.randn(3, 64, 96), torch.randn(3, 48, 96)], step)
    assert table["batch"] == 2
    assert list(table["sites"]) == [site.name for site in sites]
    for site in sites:
        widths, times = table["sites"][site.name]
        assert widths[-1] == site.width
        assert len(widths) == len(times)
        assert min(times) > 0
        assert max(times) < table["dense"] * 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_time_between_measured_widths_is_in_proportion(model) -> None:
    sites = {"encoder.0.ffn": [[8, 32, 64], [1.0, 2.0, 6.0]], "decoder.0.ffn": [[8, 64], [1.0, 3.0]]}
    cost = CostModel(model, (64, 96))
    cost.full = {"encoder.0.ffn": 64, "decoder.0.ffn": 64}
    saving = Saving(cost, "latency", {"dense": 20.0, "batch": 8, "sites": sites})
    assert saving.sites == pytest.approx(5.0 + 2.0)
    assert saving.of_site("encoder.0.ffn", 48) == pytest.approx(3.0)
    assert saving.share_with({"encoder.0.ffn": 32, "decoder.0.ffn": 64}) == pytest.approx(1 - 4 / 20)
    assert saving.sites_share(1 - 4 / 20) == pytest.approx(3 / 7)


def test_a_budget_that_cannot_be_reached_is_refused_with_the_least_that_can(model) -> None:
    saving = Saving(CostModel(model, (64, 96)), "flops")
    with pytest.raises(UserError, match=r"--target_flops 0\.05 cannot be reached.* costs 0\.\d+ of the dense one"):
        check_budget(saving, list_sites(model), step, 0.05)
    check_budget(saving, list_sites(model), step, 0.999)
