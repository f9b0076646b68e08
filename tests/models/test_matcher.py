import itertools
import math

import pytest
import torch
from torchvision.ops import box_convert, generalized_box_iou

from greedyprune.models import HungarianMatcher


def problem(seed, layers, queries, counts, classes=4):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, len(counts), queries, classes, generator=generator) * 3
    boxes = torch.rand(layers, len(counts), queries, 4, generator=generator) * 0.8 + 0.1
    targets = [
        {
            "labels": torch.randint(0, classes, (count,), generator=generator),
            "boxes": torch.rand(count, 4, generator=generator) * 0.8 + 0.1,
        }
        for count in counts
    ]
    return logits, boxes, targets


def cost(logits, box, label, target):
    """Cost of one pair, from the papers: focal class cost, L1, generalized IoU."""
    p = 1 / (1 + math.exp(-logits[label].item()))
    found = 0.25 * (1 - p) ** 2 * -math.log(p) - 0.75 * p**2 * -math.log(1 - p)
    corners = [box_convert(b[None], "cxcywh", "xyxy") for b in (box, target)]
    overlap = generalized_box_iou(*corners).item()
    return 2 * found + 5 * (box - target).abs().sum().item() - 2 * overlap


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("queries", "counts"), [(4, [3, 1, 0, 2]), (5, [5]), (3, [4, 2])])
def test_the_match_is_the_cheapest_of_all(seed, queries, counts):
    logits, boxes, targets = problem(seed, 2, queries, counts)
    match = HungarianMatcher()(logits, boxes, targets)
    offset = 0
    for image, target in enumerate(targets):
        count = counts[image]
        for layer in range(2):
            chosen = (match.layer == layer) & (match.image == image)
            pairs = list(zip(match.query[chosen].tolist(), (match.target[chosen] - offset).tolist(), strict=True))
            assert len(pairs) == min(queries, count)
            assert len({query for query, _ in pairs}) == len({t for _, t in pairs}) == len(pairs)
            price = [
                [
                    cost(logits[layer, image, q], boxes[layer, image, q], *pair)
                    for pair in zip(*target.values(), strict=True)
                ]
                for q in range(queries)
            ]
            if count <= queries:
                orders = itertools.permutations(range(queries), count)
                cheapest = min(sum(price[q][t] for t, q in enumerate(order)) for order in orders)
            else:
                orders = itertools.permutations(range(count), queries)
                cheapest = min(sum(price[q][t] for q, t in enumerate(order)) for order in orders)
            assert sum(price[q][t] for q, t in pairs) == pytest.approx(cheapest, abs=1e-4)
        offset += count


def test_weights_of_the_costs_decide():
    logits = torch.tensor([[[[4.0, -4.0], [-4.0, 4.0]]]])
    boxes = torch.tensor([[[[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]]]])
    target = [{"labels": torch.tensor([1]), "boxes": boxes[0, 0, :1]}]  # the box of query 0, the class of query 1
    assert HungarianMatcher(cost_class=100)(logits, boxes, target).query.tolist() == [1]
    assert HungarianMatcher(cost_bbox=100)(logits, boxes, target).query.tolist() == [0]


def test_images_without_targets_match_nothing():
    match = HungarianMatcher()(*problem(0, 2, 4, [0, 0]))
    assert [len(part) for part in match] == [0, 0, 0, 0]


def test_a_diverged_model_still_gets_a_match():
    logits, boxes, targets = problem(0, 1, 4, [2])
    match = HungarianMatcher()(logits * math.nan, boxes * math.inf, targets)
    assert len(match.query) == 2
