"""Errors of answers, query by query, against loops."""

import math

import pytest
import torch

from greedyprune.models.answers import answer_errors


def answer(seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    stages = [
        {
            "pred_logits": torch.randn(2, 3, 4, generator=generator),
            "pred_boxes": torch.rand(2, 3, 4, generator=generator) * 0.5 + 0.2,
        }
        for _ in range(2)
    ]
    return {**stages[0], "aux_outputs": stages[1:]}


def giou(a: list[float], b: list[float]) -> float:
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    left, right = (
        [(x - w / 2, x + w / 2) for x, w in ((ax, aw), (bx, bw))],
        [(y - h / 2, y + h / 2) for y, h in ((ay, ah), (by, bh))],
    )
    sides = []
    hull = 1.0
    for (low, high), (other_low, other_high) in (left, right):
        sides.append(max(0.0, min(high, other_high) - max(low, other_low)))
        hull *= max(high, other_high) - min(low, other_low)
    overlap = sides[0] * sides[1]
    union = aw * ah + bw * bh - overlap
    return overlap / union - (hull - union) / hull


def test_errors_are_those_of_the_formula() -> None:
    own, aim = answer(0), answer(1)
    errors = answer_errors(own, aim)
    layers = zip((own, *own["aux_outputs"]), (aim, *aim["aux_outputs"]), errors, strict=True)
    for mine, theirs, found in layers:
        for image in range(2):
            for query in range(3):
                chances = [1 / (1 + math.exp(-x)) for x in theirs["pred_logits"][image, query].tolist()]
                entropy = 0.0
                for logit, chance in zip(mine["pred_logits"][image, query].tolist(), chances, strict=True):
                    said = 1 / (1 + math.exp(-logit))
                    entropy -= chance * math.log(said) + (1 - chance) * math.log(1 - said)
                a, b = mine["pred_boxes"][image, query].tolist(), theirs["pred_boxes"][image, query].tolist()
                distance = 5 * sum(abs(x - y) for x, y in zip(a, b, strict=True)) + 2 * (1 - giou(a, b))
                assert found[image, query].item() == pytest.approx(entropy + max(chances) * distance, rel=1e-4)
