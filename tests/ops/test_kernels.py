"""What is built here, against the twin; `python ops/test.py` runs the same checks for users."""

import pytest
import torch

from greedyprune.ops import ms_deform_attn
from greedyprune.ops.built import find
from greedyprune.ops.check import CASES, DTYPES, compare, implementations, make_inputs
from greedyprune.ops.operator import OPERATOR

FOUND = implementations()
CPU = find("cpu")
built = pytest.mark.skipif(not FOUND, reason=f"no kernels: {CPU.reason}")
built_cpu = pytest.mark.skipif(CPU.module is None, reason=f"no kernels: {CPU.reason}")


@built
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("implementation", FOUND, ids=lambda found: found.name)
def test_outputs_and_gradients_are_the_twins(implementation, case, dtype):
    if implementation.device == "cuda" and len(case.shapes) > 64:
        pytest.skip("more levels than the CUDA kernels take")
    for half in (False, True):
        for name, error, limit in compare(implementation, case, dtype, half):
            assert error <= limit, name


@built_cpu
def test_gradcheck_of_the_operator():
    given = make_inputs(CASES[0]._replace(batch=1, heads=2, channels=3, queries=3, points=2), torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (given.value, given.locations, given.weights)]
    assert torch.autograd.gradcheck(lambda *tensors: OPERATOR(tensors[0], given.flat, *tensors[1:]), inputs)


@built_cpu
@pytest.mark.parametrize("case", [CASES[1], CASES[3]], ids=str)
def test_the_same_bits_on_any_number_of_threads(case):
    given = make_inputs(case, torch.float32)
    arguments = (given.value, given.flat, given.locations, given.weights)
    for threads in (2, 3, 7):
        one = (CPU.module.forward(*arguments, threads=1), *CPU.module.backward(given.grad, *arguments, threads=1))
        many = (
            CPU.module.forward(*arguments, threads=threads),
            *CPU.module.backward(given.grad, *arguments, threads=threads),
        )
        assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))


@built
@pytest.mark.parametrize("implementation", FOUND, ids=lambda found: found.name)
def test_locations_that_are_no_places_read_nothing(implementation):
    given = make_inputs(CASES[0], torch.float32, implementation.device)
    for bad in (float("nan"), float("inf"), -float("inf"), 1e30, -1e30):
        locations = torch.full_like(given.locations, bad)
        arguments = (given.value, given.flat, locations, given.weights)
        assert not implementation.forward(*arguments).any()
        assert not any(grad.any() for grad in implementation.backward(given.grad, *arguments))


@built
@pytest.mark.parametrize("implementation", FOUND, ids=lambda found: found.name)
def test_infinite_values_that_no_sample_touches_change_nothing(implementation):
    shapes, flat = ((4, 4), (2, 2)), [4, 4, 2, 2]
    value = torch.full((1, 20, 2, 5), torch.inf, device=implementation.device)
    value[0, 5, 0] = 3.0  # row 1, column 1 of the first level, of the first head
    locations = torch.full((1, 1, 2, 2, 1, 2), 5.0, device=implementation.device)
    locations[0, 0, 0, 0, 0] = 1.5 / 4
    weights = torch.ones(1, 1, 2, 2, 1, device=implementation.device)
    value[0, [6, 9, 10], 0] = 0.0  # the other corners, which get no weight but are read
    out = implementation.forward(value, flat, locations, weights)
    assert out.flatten().tolist() == [3.0] * 5 + [0.0] * 5
    assert len(shapes) * 2 == len(flat)


@built_cpu
def test_inputs_need_not_be_contiguous():
    given = make_inputs(CASES[0], torch.float32)
    expected = ms_deform_attn(given.value, given.shapes, given.locations, given.weights)
    value = given.value.transpose(1, 2).contiguous().transpose(1, 2)
    locations = given.locations.flip(-1).contiguous().flip(-1).transpose(3, 4).contiguous().transpose(3, 4)
    assert torch.equal(ms_deform_attn(value, given.shapes, locations, given.weights), expected)


@built_cpu
def test_second_derivatives_are_refused():
    given = make_inputs(CASES[0], torch.float64)
    value = given.value.requires_grad_()
    out = ms_deform_attn(value, given.shapes, given.locations, given.weights)
    (grad,) = torch.autograd.grad(out.square().sum(), value, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        grad.sum().backward()
