"""`semi_structured`: two of every four, in the direction in which GPUs multiply; elsewhere one clear line."""

import pytest
import torch
from torch import nn

from greedyprune import UserError
from greedyprune.classical import METHODS, Subject, semi_structured
from greedyprune.classical.semi_structured import accelerated
from greedyprune.classical.weights import weights_of

from ..helpers.engine import GRID, subject

METHOD = METHODS["semi_structured"]


@pytest.mark.parametrize("kind", [GRID, "dn_detr", "deformable"])
def test_the_two_largest_of_every_four_inputs_stay(kind: str) -> None:
    one = subject(kind)
    about = Subject(one.family, one.model)
    pruned = METHOD.apply(about, 0.5).state_dict()
    changed = 0
    for name, weight in weights_of(about).items():
        if weight.shape[1] % 4:
            assert torch.equal(pruned[name], weight)
            continue
        flat, found = (each.flatten(2) if each.dim() > 2 else each[..., None] for each in (weight, pruned[name]))
        for start in range(0, weight.shape[1], 4):
            four = flat[:, start : start + 4]
            left = found[:, start : start + 4]
            assert torch.equal(left, torch.where(left == 0, 0.0, four))
            assert ((left != 0).sum(1) <= 2).all()
            assert torch.equal(left.abs().topk(2, 1).values, four.abs().topk(2, 1).values)
        changed += 1
    assert changed


def test_of_equal_weights_the_first_two_stay() -> None:
    kept = METHOD.kept({"w": torch.ones(1, 8)})["w"]
    assert kept.tolist() == [[True, True, False, False] * 2]


def test_only_a_half_is_offered() -> None:
    one = subject()
    with pytest.raises(UserError, match=r"semi_structured: the amount is 0.4, it must be a number of at least 0.5"):
        METHOD.apply(Subject(one.family, one.model), 0.4)


def test_a_device_that_does_not_run_it_is_named_in_one_line() -> None:
    with pytest.raises(UserError, match=r"2:4 sparsity runs on NVIDIA GPUs of compute capability 8.0 and above"):
        accelerated(subject().model)


def test_layers_of_such_zeros_are_replaced_and_answer_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the dense weight in the place of torch's type, for want of a device."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 64), nn.Linear(64, 64, bias=False), nn.Linear(64, 20))
    for layer in model:
        keep = METHOD.kept({"w": layer.weight.detach()})["w"]
        layer.weight.data *= keep
    model[2].weight.data += 1  # no zeros any more
    monkeypatch.setattr(semi_structured, "to_sparse_semi_structured", lambda weight: weight)
    monkeypatch.setattr(semi_structured, "_runs", lambda device: True)
    fast, names = accelerated(model)
    assert names == ["0"]  # the others have too few rows or columns, or no zeros
    x = torch.randn(2, 3, 64)
    assert torch.allclose(fast(x), model(x), rtol=1e-2, atol=1e-2)
    assert fast(x).dtype == torch.float32
    with pytest.raises(UserError, match="no linear layer has two zeros of every four and sizes that are multiples of"):
        accelerated(nn.Linear(64, 32))
