"""Answers of two models that do not have the same queries or layers."""

from dataclasses import replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from greedyprune.answer import Answer
from greedyprune.sites.change import Pairing


def counterpart(dense: Answer, pairing: Pairing) -> Answer:
    """A dense model's answer to what a changed model still answers.

    The last answers correspond, whichever layers gave them; of the earlier ones those of layers that both have.

    Args:
        dense: the dense model's answer, of all its layers.
        pairing: what the changed model has left.
    """
    answer = dense if pairing.queries is None else dense.of_queries(pairing.queries)
    if not pairing.gone:
        return answer
    left = [number for number in range(len(dense.earlier) + 1) if number not in pairing.gone]
    earlier = tuple(answer.earlier[number] for number in left[:-1])
    return Answer(answer.logits, answer.boxes, answer.link, earlier, answer.ranked)


def assigned(costs: Tensor) -> Tensor:
    """The columns `[B, n]` that the rows of each image get in the assignment of least cost `[B, n, m]`, n <= m."""
    found = [linear_sum_assignment(each)[1] for each in costs.detach().double().cpu().numpy()]
    return torch.stack([torch.from_numpy(each) for each in found]).to(costs.device)


def in_order(answer: Answer, index: Tensor) -> Answer:
    """An answer of whose queries each image `[B]` has others in another order, `[B, q]`; every layer's alike."""

    def taken(values: Tensor) -> Tensor:
        return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))

    earlier = tuple(in_order(each, index) for each in answer.earlier)
    return replace(answer, logits=taken(answer.logits), boxes=taken(answer.boxes), earlier=earlier)
