"""Classical pruning methods, one file each, on every family; and the rounds in which they alternate with training."""

from greedyprune.classical.allocated import Allocated
from greedyprune.classical.base import Method, Pruned, Subject
from greedyprune.classical.filter_global import FilterGlobal
from greedyprune.classical.filter_l1 import FilterL1
from greedyprune.classical.layers import Layers
from greedyprune.classical.scored import Scored
from greedyprune.classical.semi_structured import SemiStructured
from greedyprune.classical.weight import Weight
from greedyprune.errors import UserError
from greedyprune.ranges import shown

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        FilterL1(),
        FilterGlobal(),
        FilterGlobal(
            "filter_global_max",
            "the same, scores over the largest of their layer",
            by_largest=True,
            whole=0,
        ),
        Weight(),
        Weight("weight_per_layer", "single weights of small magnitude, the same share of every layer", per_layer=True),
        SemiStructured(),
        Layers(),
        Layers("layers_least_damage", "layers of every stack, those that the answers miss least", looks=True),
        Allocated(),
        Scored("basis", "the closed form: channels by `select`, readers solved again", "basis", refit=True),
        Scored("taylor", "channels by the loss's derivative in a gate", "taylor", labelled=True),
        Scored("taylor_unlabelled", "the same, the dense answer as the truth", "taylor_unlabelled"),
        Scored("sensitivity", "filters of small mean |gradient|", "sensitivity", labelled=True),
        Scored("sensitivity_unlabelled", "the same, the dense answer as the truth", "sensitivity_unlabelled"),
        Scored("sensitivity_weight", "filters of small mean |weight x gradient|", "sensitivity_weight", labelled=True),
        Scored(
            "sensitivity_weight_unlabelled",
            "the same, the dense answer as the truth",
            "sensitivity_weight_unlabelled",
        ),
        Scored("magnitude", "channels by the weights that write and that read them", "magnitude"),
        Scored("random", "any channels: what every other method must beat", "random"),
    )
}


def register(method: Method) -> Method:
    """Make a method known, by its name.

    Raises:
        ValueError: there is one of that name.
    """
    if method.name in METHODS:
        raise ValueError(f"there is a method {method.name} already")
    METHODS[method.name] = method
    return method


def method_of(text: str, source: str = "--method") -> tuple[Method, float]:
    """A method and its amount from `NAME:AMOUNT`.

    Args:
        text: from a user.
        source: what messages call it.

    Raises:
        UserError: an unknown name, or an amount that the method does not take.
    """
    name, colon, amount = text.partition(":")
    if name not in METHODS:
        raise UserError(f"{source} {shown(name)} is unknown; choose one of {', '.join(METHODS)}")
    method = METHODS[name]
    try:
        value = method.amounts.kind(amount) if colon else None
    except ValueError:
        value = None
    if value is None or not method.amounts.holds(value):
        raise UserError(f"{source} {shown(text)}: the amount after {name}: must be {method.amounts}")
    return method, value


__all__ = ["METHODS", "Method", "Pruned", "Subject", "method_of", "register"]
