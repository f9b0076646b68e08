"""Answers of two models that do not have the same queries or layers."""

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
    return Answer(answer.logits, answer.boxes, answer.link, earlier)
