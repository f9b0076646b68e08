import pytest
import torch

from greedyprune.ops import ms_deform_attn, ms_deform_attn_twin
from greedyprune.ops.check import CASES, make_inputs


@pytest.fixture
def arguments():
    given = make_inputs(CASES[0], torch.float32)
    return {
        "value": given.value,
        "spatial_shapes": list(given.shapes),
        "locations": given.locations,
        "weights": given.weights,
    }


def test_the_function_agrees_with_the_twin(arguments):
    torch.testing.assert_close(ms_deform_attn(**arguments), ms_deform_attn_twin(**arguments))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"value": torch.zeros(2, 42, 96)}, r"value has shape \[2, 42, 96\]"),
        ({"locations": torch.zeros(2, 37, 3, 3, 4, 3)}, r"locations have shape \[2, 37, 3, 3, 4, 3\]"),
        ({"locations": torch.zeros(1, 37, 3, 3, 4, 2)}, "do not fit value"),
        ({"weights": torch.zeros(2, 37, 3, 12)}, "weights of shape"),
        ({"spatial_shapes": [(5, 7), (3, 2)]}, "2 spatial shapes, and locations of 3 levels"),
        ({"spatial_shapes": [(5, 7), (0, 2), (7, 1)]}, "level 1 is empty: its height and width are 0 and 2"),
        ({"spatial_shapes": [(5, 7), (3, 2), (1, 2)]}, "value has 42 tokens, and levels of .* have 43"),
        ({"value": torch.zeros(2, 42, 3, 32, dtype=torch.int32)}, "value is torch.int32"),
        ({"weights": torch.zeros(2, 37, 3, 3, 4, dtype=torch.float16)}, "weights are torch.float16"),
        ({"weights": torch.zeros(2, 37, 3, 3, 4, device="meta")}, "weights are on meta, value on cpu"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(arguments, change, says):
    with pytest.raises(ValueError, match=says) as error:
        ms_deform_attn(**{**arguments, **change})
    assert "\n" not in str(error.value)


def test_no_levels_and_no_points_are_refused(arguments):
    for shape in ((2, 37, 3, 0, 4, 2), (2, 37, 3, 3, 0, 2)):
        with pytest.raises(ValueError, match="at least one level and one point"):
            ms_deform_attn(
                arguments["value"],
                arguments["spatial_shapes"][: shape[3]],
                torch.zeros(shape),
                torch.zeros(shape[:-1]),
            )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_value_with_float32_places_as_autocast_leaves_them(arguments, dtype):
    inputs = [arguments["value"].to(dtype), arguments["locations"], arguments["weights"]]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        out = ms_deform_attn(inputs[0], arguments["spatial_shapes"], inputs[1], inputs[2])
    assert out.dtype == dtype
    out.float().square().sum().backward()
    assert [tensor.grad.dtype for tensor in inputs] == [dtype, torch.float32, torch.float32]


def test_an_empty_batch_and_no_queries_give_empty_outputs(arguments):
    empty = {name: given[:0] for name, given in arguments.items() if name != "spatial_shapes"}
    assert ms_deform_attn(**{**arguments, **empty}).shape == (0, 37, 96)
    no_queries = {name: arguments[name][:, :0].requires_grad_() for name in ("locations", "weights")}
    value = arguments["value"].requires_grad_()
    out = ms_deform_attn(**{**arguments, **no_queries, "value": value})
    assert out.shape == (2, 0, 96)
    out.sum().backward()
    assert not value.grad.any()
