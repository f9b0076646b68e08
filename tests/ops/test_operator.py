"""The operator as PyTorch's compilers see it; without kernels its pure PyTorch fallback runs."""

import pytest
import torch
from torch import nn

from greedyprune.ops import ms_deform_attn
from greedyprune.ops.check import CASES, make_inputs
from greedyprune.ops.operator import OPERATOR

GRADIENT = torch.ops.greedyprune.ms_deform_attn_backward


def inputs(dtype=torch.float32):
    given = make_inputs(CASES[0], dtype)
    return given, (given.value, given.flat, given.locations, given.weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_finds_nothing_wrong(dtype):
    given, arguments = inputs(dtype)
    torch.library.opcheck(GRADIENT, (given.grad, *arguments))
    for tensor in (given.value, given.locations, given.weights):
        tensor.requires_grad_()
    torch.library.opcheck(OPERATOR, arguments)


class Layer(nn.Module):
    def forward(self, value, locations, weights):
        return ms_deform_attn(value * 2, [(5, 7), (3, 2), (1, 1)], locations, weights.softmax(-1)).relu()


def test_torch_compile_sees_through_without_a_break_forward_and_backward():
    given, _ = inputs()
    tensors = (given.value, given.locations, given.weights)
    results = []
    for layer in (Layer(), torch.compile(Layer(), fullgraph=True, backend="aot_eager")):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        out = layer(*leaves)
        results.append((out, *torch.autograd.grad(out, leaves, given.grad)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_torch_export_sees_through_with_any_batch():
    given, _ = inputs()
    tensors = (given.value, given.locations, given.weights)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Layer(), tensors, dynamic_shapes=({0: batch},) * 3)
    more = [torch.cat((tensor, tensor, tensor)) for tensor in tensors]
    torch.testing.assert_close(program.module()(*more), Layer()(*more))


def test_the_operator_itself_exports_and_runs():
    class Direct(nn.Module):
        def forward(self, value, locations, weights):
            return OPERATOR(value, [5, 7, 3, 2, 1, 1], locations, weights)

    given, arguments = inputs()
    program = torch.export.export(Direct(), (given.value, given.locations, given.weights))
    assert any(node.target is OPERATOR.default for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(given.value, given.locations, given.weights), OPERATOR(*arguments))


def test_shapes_alone_on_the_meta_device():
    given, arguments = inputs()
    meta = [argument if isinstance(argument, list) else argument.to("meta") for argument in arguments]
    assert OPERATOR(*meta).shape == (2, 37, 96)
    assert [grad.shape for grad in GRADIENT(given.grad.to("meta"), *meta)] == [
        given.value.shape,
        given.locations.shape,
        given.weights.shape,
    ]
