"""Links from logits to chances, against derivatives."""

import math

import pytest
import torch
from torch import Tensor

from greedyprune.answer import NOTHING, Answer, Link, ObjectnessSoftmax, Sigmoid, Softmax

LINKS: list[Link] = [Sigmoid(), Softmax(), ObjectnessSoftmax()]
by_link = pytest.mark.parametrize("link", LINKS, ids=lambda link: type(link).__name__)


def logits(seed: int = 0) -> Tensor:
    return 2 * torch.randn(3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hessian(link: Link, at: Tensor) -> Tensor:
    """Of the cross entropy with the chances of the logits themselves."""
    target = at.clone()
    return torch.autograd.functional.hessian(lambda x: link.cross_entropy(x, target), at)


@by_link
def test_half_curvature_is_that_of_the_cross_entropy(link: Link) -> None:
    for row, error in zip(logits(), logits(1), strict=True):
        found = link.half_curvature(row, error)
        assert torch.allclose(found, error @ hessian(link, row) @ error / 2)


@by_link
def test_the_root_times_itself_is_the_curvature(link: Link) -> None:
    for row in logits():
        root = torch.stack([link.root(row, sign) for sign in torch.eye(4, dtype=row.dtype)], dim=1)
        assert torch.allclose(root @ root.T, hessian(link, row))


@by_link
def test_the_cross_entropy_is_least_and_level_at_the_target(link: Link) -> None:
    at = logits().requires_grad_()
    entropy = link.cross_entropy(at, at.detach())
    assert torch.allclose(torch.autograd.grad(entropy.sum(), at)[0], torch.zeros(3, 4, dtype=at.dtype), atol=1e-12)
    assert (link.cross_entropy(at.detach() + 0.5 * logits(1), at.detach()) > entropy).all()


@by_link
def test_chances_are_of_classes_and_the_best_is_the_confidence(link: Link) -> None:
    chances = link.chances(logits())
    assert chances.shape == (3, 4 if isinstance(link, Sigmoid) else 3)
    assert ((chances > 0) & (chances < 1)).all()
    assert isinstance(link, Sigmoid) or (chances.sum(-1) < 1).all()
    assert torch.equal(link.confidence(logits()), chances.max(-1).values)


def found(link: Link, chance: float, classes: int = 80) -> Tensor:
    """Logits of a query that finds its first class with a chance, and all others as if there were nothing."""
    odds = math.log(chance / (1 - chance))
    if isinstance(link, Sigmoid):
        return torch.tensor([odds, *[math.log(NOTHING / (1 - NOTHING)) - 3] * (classes - 1)], dtype=torch.float64)
    if isinstance(link, ObjectnessSoftmax):
        return torch.tensor([odds, *[0.0] * classes], dtype=torch.float64)
    return torch.tensor([math.log(chance / classes)] * classes + [math.log(1 - chance)], dtype=torch.float64)


@by_link
def test_absence_is_nothing_for_a_background_query_and_grows(link: Link) -> None:
    values = [link.absence(found(link, chance)).item() for chance in (1e-9, 1e-4, NOTHING, 0.02, 0.1, 0.5, 0.9, 0.999)]
    assert values[:3] == pytest.approx([0.0] * 3, abs=1e-6)
    assert values[2:] == sorted(values[2:])
    assert values[3] > 1e-4
    # A query that is sure costs the logarithm of how much likelier it is than a background query.
    assert values[-1] == pytest.approx(math.log(1 / NOTHING), rel=0.02)


def test_absence_from_a_softmax_is_the_divergence_from_a_query_that_finds_every_class_alike() -> None:
    at = logits()
    chance, background = at.softmax(-1), torch.tensor([NOTHING / 3] * 3 + [1 - NOTHING], dtype=at.dtype)
    divergence = (chance * (chance / background).log()).sum(-1)
    assert (chance[:, :-1].sum(-1) > NOTHING).all()
    assert torch.allclose(Softmax().absence(at), divergence)


def test_an_answer_of_some_queries_has_them_in_every_layer() -> None:
    first = Answer(torch.randn(2, 5, 3), torch.rand(2, 5, 4))
    answer = Answer(torch.randn(2, 5, 3), torch.rand(2, 5, 4), earlier=(first,))
    some = answer.of_queries(torch.tensor([3, 1]))
    assert torch.equal(some.logits, answer.logits[:, [3, 1]])
    assert torch.equal(some.earlier[0].boxes, first.boxes[:, [3, 1]])
    assert [layer.images for layer in some.layers()] == [2, 2]
    assert answer.last().earlier == ()
