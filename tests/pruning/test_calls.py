"""The order of calls, and the place at which a difference of two changes begins to matter."""

import torch
from torch import nn

from greedyprune.pruning.calls import END, Order, differing
from greedyprune.sites import Change, installed

from ..helpers.engine import Subject, shared


def order_of(one: Subject) -> Order:
    inputs = one.family.inputs(one.model, one.images)
    return Order(one.model, lambda given: one.family.answer(one.model, given), inputs)


def test_the_first_place_of_modules_is_that_of_the_earliest_one_and_of_what_holds_those_that_are_never_called() -> None:
    one = shared()
    order = order_of(one)
    ffn, norm = "transformer.encoder.layers.1.linear1", "transformer.encoder.layers.0.norm1"
    assert order.first([ffn, norm]) == (norm, 0)
    assert order.first([]) == END
    assert order.first(["refpoint_embed"]) is None
    assert order.first([ffn, "refpoint_embed"]) is None
    # The box head is called by the decoder under one of its two names.
    assert order.first(["bbox_embed.layers.1"]) == ("transformer.decoder.bbox_embed.layers.1", 0)
    assert order.before((norm, 0), (ffn, 0))
    assert order.before(None, (norm, 0))
    assert order.before((ffn, 0), END)
    assert not order.before(END, END)


def test_a_place_is_found_while_the_module_is_not_there() -> None:
    one = shared()
    order, layer = order_of(one), "transformer.decoder.layers.1"
    with installed(one.model, Change(settings={("transformer.decoder.layers", "1"): nn.Identity()})):
        assert order.first([f"{layer}.linear1"]) == (f"{layer}.linear1", 0)
        assert order.first([layer]) == (layer, 0)


def test_two_changes_differ_where_their_tensors_or_settings_do() -> None:
    shared = torch.zeros(3)
    one = Change({"a.weight": shared, "b.weight": torch.zeros(2), "c.d.weight": torch.zeros(2)}, {("e", "width"): 3})
    other = Change({"a.weight": shared, "b.weight": torch.zeros(2)}, {("e", "width"): 4, ("f", "width"): 1})
    assert differing(one, other) == {"b", "c.d", "e", "f"}
    assert differing(one, one) == set()
    # A module that leaves takes its own tensors with it, and two that stand in its place are alike.
    gone, again = (Change({"c.d.weight": shared}, {("", "c"): nn.Identity()}) for _ in range(2))
    assert differing(gone, again) == set()
    assert differing(gone, Change()) == {"c"}
    assert differing(one, gone) == {"a", "b", "c", "c.d", "e"}
    assert differing(Change(settings={("x", "c"): nn.Identity()}), Change(settings={("x", "c"): nn.ReLU()})) == {"x.c"}
