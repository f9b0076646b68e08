"""Changes are put on and taken off exactly."""

import pytest
import torch
from torch import nn

from greedyprune.sites import Change, installed, put
from greedyprune.sites.change import Pairing, get_attribute, place_of

from ..helpers.engine import bits, unchanged


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        self.twin = self.inner[2]
        self.width = 4
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.scale


def change() -> Change:
    tensors = {
        "inner.0.weight": torch.zeros(2, 3),
        "inner.0.bias": torch.zeros(2),
        "inner.1.weight": torch.ones(2),
        "inner.1.bias": torch.ones(2),
        "inner.1.running_mean": torch.zeros(2),
        "inner.1.running_var": torch.ones(2),
        "inner.2.weight": torch.ones(2, 2),
        "scale": torch.full((1,), 3.0),
    }
    return Change(tensors, {("", "width"): 2, ("inner.1", "momentum"): 0.5}, Pairing(gone=frozenset((1,))))


def test_a_change_is_inside_while_it_is_installed_and_leaves_no_trace_whatever_happens() -> None:
    model = Model().eval()
    before, parameters = bits(model), dict(model.named_parameters())
    x = torch.randn(5, 3)
    dense = model(x)
    with pytest.raises(KeyError), installed(model, change()):  # noqa: PT012
        assert model.width == 2
        assert model.inner[1].momentum == 0.5
        assert isinstance(model.inner[0].weight, nn.Parameter)
        assert not isinstance(model.inner[1].running_mean, nn.Parameter)
        assert not model.scale.requires_grad
        assert model.inner[0].weight.requires_grad
        assert torch.allclose(model(x), 3 * (2 + model.twin.bias))
        raise KeyError
    assert unchanged(model, before)
    assert all(parameters[name] is parameter for name, parameter in model.named_parameters())
    assert (model.width, model.inner[1].momentum) == (4, 0.1)
    assert torch.equal(model(x), dense)


def test_a_change_that_is_put_is_there_for_good_with_tensors_of_its_own() -> None:
    model, own = Model().eval(), change()
    put(model, own)
    assert model.width == 2
    assert sum(parameter.numel() for parameter in model.parameters()) == 6 + 2 + 2 + 2 + 4 + 2 + 1
    with torch.no_grad():
        model.inner[2].weight.add_(1)
    assert torch.equal(own.tensors["inner.2.weight"], torch.ones(2, 2))


def test_a_module_that_leaves_takes_its_tensors_with_it_and_comes_back() -> None:
    model = Model().eval()
    before, inner = bits(model), model.inner[0]
    gone = Change({"inner.0.weight": torch.zeros(2, 3), "scale": torch.zeros(1)}, {("inner", "0"): nn.Identity()})
    assert set(gone.standing()) == {"scale"}
    with installed(model, gone):
        assert isinstance(model.inner[0], nn.Identity)
        assert model.scale == 0
    assert model.inner[0] is inner
    assert unchanged(model, before)


def test_of_two_changes_the_second_counts_where_they_meet() -> None:
    queries = torch.tensor([1, 2])
    one = Change({"a": torch.zeros(1)}, {("m", "w"): 1, ("m", "v"): 1}, Pairing(queries, frozenset((0,))))
    other = Change({"a": torch.ones(1), "b": torch.ones(1)}, {("m", "w"): 2}, Pairing(gone=frozenset((2,))))
    both = one | other
    assert both.tensors == {"a": other.tensors["a"], "b": other.tensors["b"]}
    assert both.settings == {("m", "w"): 2, ("m", "v"): 1}
    assert both.pairing.gone == {0, 2}
    assert both.pairing.queries is queries
    assert both
    assert Change(settings={("m", "w"): 1})
    assert not Change()


def test_places_of_tensors_and_attributes() -> None:
    model = Model()
    assert place_of("inner.0.weight") == ("inner.0", "weight")
    assert place_of("scale") == ("", "scale")
    assert get_attribute(model, "", "scale") is model.scale
    assert get_attribute(model, "inner", "0") is model.inner[0]
    assert change().to(torch.device("meta")).tensors["scale"].device.type == "meta"
