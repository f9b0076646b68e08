import math

import pytest
import torch

from greedyprune.ops import ms_deform_attn_twin
from greedyprune.ops.check import CASES, make_inputs
from greedyprune.ops.twin import ms_deform_attn_twin_backward

SMALL = [case for case in CASES if case.queries * case.channels * len(case.shapes) < 4000 and len(case.shapes) < 5]


def by_hand(given):
    """Every sample of every channel, one corner after another, with pixel centres at whole numbers plus a half."""
    value, locations, weights = given.value, given.locations, given.weights
    batch, _, heads, channels = value.shape
    out = torch.zeros(batch, locations.shape[1], heads, channels, dtype=value.dtype)
    start = 0
    for level, (height, width) in enumerate(given.shapes):
        for b, query, head, point in torch.cartesian_prod(*map(torch.arange, (*weights.shape[:3], weights.shape[4]))):
            x = locations[b, query, head, level, point, 0].item() * width - 0.5
            y = locations[b, query, head, level, point, 1].item() * height - 0.5
            for row in (math.floor(y), math.floor(y) + 1):
                for column in (math.floor(x), math.floor(x) + 1):
                    if 0 <= row < height and 0 <= column < width:
                        share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[b, query, head, level, point]
                        out[b, query, head] += share * value[b, start + row * width + column, head]
        start += height * width
    return out.flatten(2)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_the_twin_is_bilinear_sampling_by_hand(case):
    given = make_inputs(case, torch.float64)
    torch.testing.assert_close(
        ms_deform_attn_twin(given.value, given.shapes, given.locations, given.weights), by_hand(given)
    )


def test_gradcheck_of_the_twin():
    given = make_inputs(CASES[0]._replace(batch=1, heads=1, channels=2, queries=2, points=2), torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (given.value, given.locations, given.weights)]

    def call(value, locations, weights):
        return ms_deform_attn_twin(value, given.shapes, locations, weights)

    assert torch.autograd.gradcheck(call, inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_written_gradient_is_autograds(dtype):
    given = make_inputs(CASES[0], dtype)
    inputs = [tensor.requires_grad_() for tensor in (given.value, given.locations, given.weights)]
    out = ms_deform_attn_twin(inputs[0], given.shapes, inputs[1], inputs[2])
    expected = torch.autograd.grad(out, inputs, given.grad)
    with torch.no_grad():
        found = ms_deform_attn_twin_backward(given.grad, inputs[0], given.shapes, inputs[1], inputs[2])
    assert [grad.dtype for grad in found] == [tensor.dtype for tensor in inputs]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_sample_at_a_pixels_centre_is_that_pixel_and_one_outside_is_zero():
    value = torch.arange(1.0, 7).view(1, 6, 1, 1)  # 2 rows of 3
    places = [(0.5 / 3, 0.25), (2.5 / 3, 0.75), (-0.5, 0.5), (0.5, 1.5), (2.0, 2.0)]
    locations = torch.tensor(places).view(1, 5, 1, 1, 1, 2)
    out = ms_deform_attn_twin(value, [(2, 3)], locations, torch.ones(1, 5, 1, 1, 1))
    torch.testing.assert_close(out.flatten(), torch.tensor([1.0, 6.0, 0.0, 0.0, 0.0]))
