"""How much answers depend on what tokens carry, against derivatives of all of it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from greedyprune.answer import Answer, Link, ObjectnessSoftmax, Sigmoid, Softmax
from greedyprune.pruning.answers import BOX_WEIGHT
from greedyprune.pruning.sensitivity import (
    CHANNEL_SHARE,
    PROJECTIONS,
    TOKEN_SHARE,
    answer_gradients,
    channel_metric,
    token_weights,
)


@pytest.mark.parametrize("link", [Sigmoid(), Softmax(), ObjectnessSoftmax()], ids=lambda link: type(link).__name__)
def test_random_projections_measure_the_curvature_of_the_answer(link: Link) -> None:
    draw = torch.Generator().manual_seed(0)

    def matrix(*size: int) -> Tensor:
        return torch.randn(*size, generator=draw, dtype=torch.float64)

    place, maps = matrix(1, 2, 5).requires_grad_(), [(matrix(5, 3), matrix(5, 4) / 20) for _ in range(2)]

    def answer(at: Tensor) -> Answer:
        first, last = (Answer(at @ logits, at @ boxes, link) for logits, boxes in maps)
        return replace(last, earlier=(first,))

    expected = torch.zeros(10, 10, dtype=torch.float64)
    for layer, logits in enumerate(("last", "first")):
        of = (lambda at: answer(at)) if logits == "last" else (lambda at: answer(at).earlier[0])
        dense = of(place.detach())
        by_logits = torch.autograd.functional.jacobian(lambda at, of=of: of(at).logits, place.detach()).view(2, 3, 10)
        by_boxes = torch.autograd.functional.jacobian(lambda at, of=of: of(at).boxes, place.detach()).view(2, 4, 10)
        for query in range(2):
            target = dense.logits[0, query]
            curvature = torch.autograd.functional.hessian(lambda x, t=target: link.cross_entropy(x, t), target)
            sure = link.confidence(target)
            expected += by_logits[query].T @ curvature @ by_logits[query]
            expected += BOX_WEIGHT**2 * sure * by_boxes[query].T @ by_boxes[query]
        assert layer < 2
    total, draws = torch.zeros(10, 10, dtype=torch.float64), 500
    for _ in range(draws):
        for (gradient,) in answer_gradients(answer(place), [place], draw):
            total += torch.outer(gradient.flatten(), gradient.flatten()) / (draws * PROJECTIONS)
    assert (total - expected).norm() < 0.15 * expected.norm()


def test_a_place_that_the_answer_does_not_depend_on_has_a_gradient_of_zeros() -> None:
    place, other = torch.randn(1, 2, 3, requires_grad=True), torch.zeros(4, requires_grad=True)

    def drawn() -> list[list[Tensor]]:
        answer = Answer(place * 1, place.repeat(1, 1, 2)[..., :4].sigmoid())
        return answer_gradients(answer, [place, other], torch.Generator().manual_seed(0))

    gradients = drawn()
    assert len(gradients) == PROJECTIONS
    assert all(each[0].abs().sum() > 0 and not each[1].any() for each in gradients)
    assert all(torch.equal(one[0], other[0]) for one, other in zip(gradients, drawn(), strict=True))


def test_tokens_weigh_by_their_power_and_padding_nothing() -> None:
    power = torch.tensor([[[1.0, 3.0, 0.0, 9.0], [0.0, 0.0, 0.0, 9.0]]])
    valid = torch.tensor([[[1.0, 1.0, 1.0, 0.0]]])
    weights = token_weights(power, valid)
    assert torch.allclose(weights.sum(-1), torch.tensor(3.0, dtype=torch.float64))
    assert (weights[..., 3] == 0).all()
    assert torch.allclose(weights[0, 1, :3], torch.ones(3, dtype=torch.float64))
    share = (1 - TOKEN_SHARE) + TOKEN_SHARE * 3 * torch.tensor([0.25, 0.75, 0.0], dtype=torch.float64)
    assert torch.allclose(weights[0, 0, :3], share)
    assert not token_weights(torch.ones(1, 2), torch.zeros(1, 2)).any()


def test_the_metric_is_half_that_of_the_gradients_and_half_even() -> None:
    gradients = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    power = gradients.T @ gradients
    root = channel_metric(power)
    even = torch.eye(4, dtype=torch.float64)
    assert torch.allclose(root, root.T)
    assert torch.allclose(root @ root, (1 - CHANNEL_SHARE) * even + CHANNEL_SHARE * power / power.trace() * 4)
    assert torch.equal(channel_metric(torch.zeros(4, 4, dtype=torch.float64)), even)
