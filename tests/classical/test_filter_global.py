"""`filter_global`: the published rules on YOLOv2's weights, and the same rule as real cuts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from greedyprune import UserError
from greedyprune.classical import METHODS, Subject
from greedyprune.classical.weights import nonzero

from ..helpers.engine import GRID, farthest, subject
from .yolo import golden, weights

METHODS_BY_RULE = {"filter_max": "filter_global_max", "filter_l2_19": "filter_global"}


def by_hand(weights: list[Tensor], by_largest: bool) -> list[np.ndarray]:
    """The scores, from the formula."""
    found = []
    for weight in weights:
        score = np.array([np.square(each.numpy().astype(float)).mean() for each in weight])
        score = score / np.sqrt(np.square(score).sum())
        found.append(score / score.max() if by_largest else score)
    return found


@pytest.mark.parametrize("rule", METHODS_BY_RULE)
def test_filters_below_the_percentile_of_all_go(rule: str) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(n, 3, 2, 2) * torch.rand(n, 1, 1, 1) for n in (8, 16, 40, 9, 5, 12)]
    method = METHODS[METHODS_BY_RULE[rule]]
    rows = method.rows(weights, 0.3)
    scores = by_hand(weights, rule == "filter_max")
    threshold = np.percentile(np.concatenate(scores), 30)
    pruned = len(weights) if rule == "filter_max" else len(weights) - 4
    for number, (own, score) in enumerate(zip(rows, scores, strict=True)):
        assert own.tolist() == [bool(each >= threshold) or number >= pruned for each in score]


@pytest.mark.slow
@pytest.mark.parametrize("rule", METHODS_BY_RULE)
def test_the_studys_counts_come_out_of_its_rule_at_full_size(rule: str) -> None:
    found = golden()
    method, every = METHODS[METHODS_BY_RULE[rule]], list(weights().values())
    for share, expected in found[rule].items():
        kept = [int(each.sum()) for each in method.rows(every, int(share) / 100)]
        assert kept == expected["kept"]
        count = sum(a * b for a, b in zip(kept, found["fan_in"], strict=True)) + found["not_conv_weights"]
        assert count == expected["nonzero_parameters"]


@pytest.mark.parametrize("name", METHODS_BY_RULE.values())
def test_real_cuts_leave_as_many_filters_as_pass_the_threshold_to_a_multiple(name: str) -> None:
    one = subject("dn_detr")
    method = METHODS[name]
    about = Subject(one.family, one.model)
    state = one.model.state_dict()
    writers = [next(p.name for p in site.slices if state[p.name].dim() == 4) for site in about.convolutions]
    scores = by_hand([state[each] for each in writers], name == "filter_global_max")
    threshold = np.percentile(np.concatenate(scores), 40)
    slim = method.apply(about, 0.4)
    widths = {site.name: site.full for site in one.family.sites(slim)}
    for site, score in zip(about.convolutions, scores, strict=True):
        left = int((score >= threshold).sum())
        assert widths[site.name] == (left if left == site.full else max(8, min(site.full, round(left / 8) * 8)))
    assert sum(each.numel() for each in slim.parameters()) < sum(each.numel() for each in one.model.parameters())


def test_the_published_rule_on_a_model_leaves_zeros_and_the_last_four_convolutions_whole() -> None:
    one = subject("dn_detr")
    found = METHODS["filter_global"].published(Subject(one.family, one.model), 0.5)
    convolutions = [n for n, each in one.model.named_modules() if isinstance(each, torch.nn.Conv2d)]
    assert list(found.kept) == [f"{name}.weight" for name in convolutions]
    whole = [bool(each.all()) for each in found.kept.values()]
    assert all(whole[-4:])
    assert not all(whole[:-4])
    zeros = one.family.slim(one.model, found.change)
    gone = sum(int((~each).sum()) for each in found.kept.values())
    assert nonzero(zeros) == nonzero(one.model) - gone
    assert farthest(one.answer(one.family.slim(one.model, found.cut)), one.answer(zeros)) > 0  # a constant was left


def test_a_method_without_a_published_rule_says_so() -> None:
    one = subject(GRID)
    with pytest.raises(UserError, match="weight has no published rule of its own; leave out --as_published"):
        METHODS["weight"].published(Subject(one.family, one.model), 0.5)


def test_goldens_are_those_of_the_whole_network() -> None:
    found = golden()
    assert (
        sum(a * b for a, b in zip(found["filters"], found["fan_in"], strict=True)) + found["not_conv_weights"]
        == found["parameters"]
    )
    example = json.loads((Path(__file__).parents[1] / "data/goldens/yolo/published_counts.json").read_text())
    for each in example["published"].values():
        kept = each["an_example_of_kept_filters_not_the_published_one"]
        assert sum(a * b for a, b in zip(kept, found["fan_in"], strict=True)) + 20_797 == each["nonzero_parameters"]
