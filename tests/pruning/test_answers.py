"""Errors of answers, query by query, against loops."""

import math
from dataclasses import replace

import pytest
import torch

from greedyprune.answer import Answer, Link, Sigmoid, Softmax
from greedyprune.pruning.answers import answer_errors


def answer(seed: int, link: Link) -> Answer:
    generator = torch.Generator().manual_seed(seed)
    last, earlier = (
        Answer(torch.randn(2, 3, 4, generator=generator), torch.rand(2, 3, 4, generator=generator) * 0.5 + 0.2, link)
        for _ in range(2)
    )
    return replace(last, earlier=(earlier,))


def entropy_and_confidence(logits: list[float], aim: list[float], link: Link) -> tuple[float, float]:
    """Cross entropy with the target's chances, and the chance of its best class."""
    if isinstance(link, Softmax):
        said, chances = ([math.exp(x) / sum(map(math.exp, each)) for x in each] for each in (logits, aim))
        entropy = -sum(chance * math.log(own) for own, chance in zip(said, chances, strict=True))
        return entropy, max(chances[:-1])  # the last is "no object"
    said, chances = ([1 / (1 + math.exp(-x)) for x in each] for each in (logits, aim))
    pairs = zip(said, chances, strict=True)
    return -sum(c * math.log(own) + (1 - c) * math.log(1 - own) for own, c in pairs), max(chances)


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


@pytest.mark.parametrize("link", [Sigmoid(), Softmax()])
def test_errors_are_those_of_the_formula(link: Link) -> None:
    own, aim = answer(0, link), answer(1, link)
    errors = answer_errors(own, aim)
    for mine, theirs, found in zip(own.layers(), aim.layers(), errors, strict=True):
        for image in range(2):
            for query in range(3):
                logits = (each.logits[image, query].tolist() for each in (mine, theirs))
                entropy, confidence = entropy_and_confidence(*logits, link)
                a, b = mine.boxes[image, query].tolist(), theirs.boxes[image, query].tolist()
                distance = 5 * sum(abs(x - y) for x, y in zip(a, b, strict=True)) + 2 * (1 - giou(a, b))
                least, _ = entropy_and_confidence(*[theirs.logits[image, query].tolist()] * 2, link)
                expected = entropy - least + confidence * distance
                assert found[image, query].item() == pytest.approx(expected, rel=1e-4)
