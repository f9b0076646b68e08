"""Weights that are zero stay zero in any training, and are plain parameters with plain names afterwards."""

import copy

import pytest
import torch

from greedyprune.classical import METHODS, Subject
from greedyprune.classical.held import folded, held, hold, zeros
from greedyprune.classical.weights import weights_of

from ..helpers.engine import GRID, bits, subject, unchanged

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.05),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1),
    "adamax": lambda parameters: torch.optim.Adamax(parameters, lr=1e-2),
}


def step(one, model, optimizer) -> None:
    optimizer.zero_grad()
    answer = one.family.answer(model, one.family.inputs(model, one.images))
    (answer.logits.square().mean() + answer.boxes.square().mean()).backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [*((GRID, each) for each in OPTIMIZERS), ("dn_detr", "sgd"), ("deformable, two stages", "adamw")],
)
def test_zeros_stay_and_everything_else_learns(kind: str, optimizer: str) -> None:
    one = subject(kind)
    pruned = METHODS["weight"].prune(Subject(one.family, one.model), 0.7)
    model = one.family.slim(one.model, pruned.change).requires_grad_(True)
    before = bits(model)
    with held(model, pruned.kept):
        assert model.state_dict().keys() != before.keys()
        made = OPTIMIZERS[optimizer](model.parameters())
        for _ in range(3):
            step(one, model, made)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert type(model) is type(one.model)
    for name, kept in pruned.kept.items():
        assert not after[name][~kept].any()
        assert not after[name][~kept].signbit().any()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) > len(before) / 3
    assert {id(each) for each in model.parameters()} == {id(each) for each in made.param_groups[0]["params"]}


def test_an_optimizer_that_pushes_zeros_away_does_not_get_them_out() -> None:
    one = subject(GRID)
    pruned = METHODS["weight"].prune(Subject(one.family, one.model), 0.5)
    model = one.family.slim(one.model, pruned.change)
    with held(model, pruned.kept), torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(model.state_dict()[name] != 0, kept) for name, kept in pruned.kept.items())


def test_holding_alone_changes_no_answer_and_a_folded_copy_is_the_model_as_it_was() -> None:
    one = subject("deformable, refined")
    model = METHODS["weight_per_layer"].apply(Subject(one.family, one.model), 0.4)
    before, answer = bits(model), one.answer(model)
    kept = zeros(Subject(one.family, model))
    assert kept.keys() == weights_of(Subject(one.family, model)).keys()
    hold(model, kept)
    assert torch.equal(one.answer(model).logits, answer.logits)
    copied = folded(copy.deepcopy(model))
    assert torch.equal(one.answer(model).logits, answer.logits)  # which shares its classes with the copies
    assert unchanged(copied, before)
    assert torch.equal(one.answer(copied).logits, answer.logits)


def test_a_weight_is_held_once() -> None:
    one = subject(GRID)
    kept = {"conv1.weight": one.model.conv1.weight > 0}
    hold(one.model, kept)
    with pytest.raises(ValueError, match=r"conv1.weight has a parametrization already"):
        hold(one.model, kept)


def test_a_model_without_zeros_has_nothing_to_hold() -> None:
    one = subject()
    with torch.no_grad():
        for parameter in one.model.parameters():
            parameter.add_(1e-3 * (parameter == 0))
    assert zeros(Subject(one.family, one.model)) == {}
