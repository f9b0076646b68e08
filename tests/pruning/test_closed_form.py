"""The closed forms against brute force on small cases."""

import itertools

import pytest
import torch

from greedyprune.pruning.bases import query_key_basis, shared_key_basis, value_basis
from greedyprune.pruning.moments import HeadMoments, Moments
from greedyprune.pruning.refit import refit
from greedyprune.pruning.selection import forward_selection


def correlated(rows: int, width: int, seed: int, heads: int = 1) -> torch.Tensor:
    """`[heads, rows, width]` float64 rows whose channels overlap and fade."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(heads, width, width, generator=draw, dtype=torch.float64)
    fading = 0.6 ** torch.arange(width, dtype=torch.float64)
    return torch.randn(heads, rows, width, generator=draw, dtype=torch.float64) * fading @ mix


def test_moments_of_parts_are_those_of_the_whole():
    rows = correlated(300, 7, 0)[0] + 50
    moments = Moments(7)
    weights = torch.arange(300) % 4
    for part in (slice(0, 1), slice(1, 200), slice(200, 200), slice(200, 300)):
        moments.add(rows[part], weights[part])
    repeated = rows.repeat_interleave(weights, dim=0)
    assert torch.allclose(moments.mean, repeated.mean(0))
    assert torch.allclose(moments.covariance, repeated.T.cov(correction=0))


def test_padded_rows_count_nowhere():
    rows = correlated(40, 5, 1, heads=2)[None].repeat(2, 1, 1, 1)  # [2 images, 2 heads, 40, 5]
    valid = torch.ones(2, 40, dtype=torch.bool)
    valid[1, 25:] = False
    padded, exact = HeadMoments(2, 5), HeadMoments(2, 5)
    padded.add(torch.where(valid[:, None, :, None], rows, 1e6), valid[:, None].expand(-1, 2, -1), centred=True)
    exact.add(rows[:1], torch.ones(1, 2, 40), centred=True)
    exact.add(rows[1:, :, :25], torch.ones(1, 2, 25), centred=True)
    assert padded.weight.tolist() == exact.weight.tolist() == [65, 65]
    assert torch.allclose(padded.moment, exact.moment)


@pytest.mark.parametrize("width", [1, 3, 6])
def test_the_query_key_basis_is_the_truncated_decomposition_of_the_logits(width):
    q, k = correlated(50, 6, 2, heads=3), correlated(40, 6, 3, heads=3)
    basis = query_key_basis(q.mT @ q, k.mT @ k)
    logits = q @ k.mT
    slim = (q @ basis.query[:, :width].mT) @ (k @ basis.key[:, :width].mT).mT
    u, s, vh = torch.linalg.svd(logits, full_matrices=False)
    best = (u[..., :width] * s[:, None, :width]) @ vh[:, :width]
    error, least = (logits - slim).norm(), (logits - best).norm()
    assert error <= least * 1.001 + 1e-6 * logits.norm()


def test_a_basis_at_full_width_is_exact_on_images_that_calibration_never_saw():
    q, k = correlated(50, 6, 2, heads=3), correlated(40, 6, 3, heads=3)
    q[..., 0] = 0  # a dead channel, and more channels than rows below
    basis = query_key_basis(q.mT @ q, k[:, :2].mT @ k[:, :2])
    assert torch.allclose(basis.query.mT @ basis.key, torch.eye(6, dtype=torch.float64).expand(3, 6, 6), atol=1e-8)
    values = value_basis(q.mT @ q, torch.randn(9, 3, 6, generator=torch.Generator().manual_seed(0)).double())
    weight = torch.randn(9, 3, 6, generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(torch.einsum("ohw,hwd->ohd", values.output, values.value), weight, atol=1e-8)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_the_value_basis_is_the_truncated_decomposition_of_the_output(width):
    o, weight = correlated(80, 5, 4, heads=2), correlated(9, 10, 5)[0].view(9, 2, 5)
    basis = value_basis(o.mT @ o, weight)
    for head in range(2):
        output = o[head] @ weight[:, head].T
        slim = o[head] @ basis.value[head, :width].T @ basis.output[:, head, :width].T
        s = torch.linalg.svdvals(output)
        assert (output - slim).norm() <= s[width:].norm() * 1.001 + 1e-4 * output.norm()


def test_shared_keys_beat_a_basis_of_either_product_alone_and_random_maps():
    q = [correlated(60, 6, seed, heads=2) for seed in (6, 7)]
    k = [correlated(60, 6, seed, heads=2) for seed in (8, 9)]
    moments = [x.mT @ x for x in q], [x.mT @ x for x in k]

    def error(queries, key):
        parts = [x @ y.mT - (x @ r.mT) @ (y @ key.mT).mT for x, y, r in zip(q, k, queries, strict=True)]
        return sum(part.square().sum() for part in parts).item()

    def best_readers(key):
        return [torch.linalg.solve(key @ c @ key.mT, key @ c) for c in moments[1]]

    for width in (2, 4):
        first, second, key = shared_key_basis(tuple(moments[0]), tuple(moments[1]), width)
        found = error((first, second), key)
        for one, other in zip(*moments, strict=True):
            alone = query_key_basis(one, other).key[:, :width]
            assert found <= error(best_readers(alone), alone) * 1.0001
        draw = torch.Generator().manual_seed(0)
        for _ in range(20):
            near = key + 0.05 * torch.randn(key.shape, generator=draw, dtype=torch.float64)
            assert found <= error(best_readers(near), near) * 1.0001
    first, second, key = shared_key_basis(tuple(moments[0]), tuple(moments[1]), 6)
    assert error((first, second), key) < 1e-12


def test_the_refit_is_the_regression_on_the_rows_themselves():
    x = correlated(200, 8, 10)[0] + 3
    weight, bias = correlated(5, 8, 11)[0], torch.arange(5, dtype=torch.float64)
    moments = Moments(8)
    moments.add(x, torch.ones(len(x)))
    y = x @ weight.T + bias
    for kept in (torch.tensor([0, 2, 5]), correlated(3, 8, 12)[0]):
        start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        solved, shift = refit(moments.covariance, moments.mean, kept, weight, bias, start)
        inputs = x[:, kept] if kept.dim() == 1 else x @ kept.T
        design = torch.cat((inputs, torch.ones(200, 1, dtype=torch.float64)), dim=1)
        best = torch.linalg.lstsq(design, y).solution
        assert (y - inputs @ solved.T - shift).norm() <= (y - design @ best).norm() * 1.001


def test_forward_selection_takes_what_brute_force_takes():
    x, weight = correlated(120, 9, 13)[0], correlated(4, 9, 14)[0]
    x[:, 4] = 2.0  # never varies
    x[:, 7] = x[:, 1]  # the same as another
    moments = Moments(9)
    moments.add(x, torch.ones(len(x)))
    order, gain = forward_selection(moments.covariance, weight)
    y = (x - x.mean(0)) @ weight.T
    centred = x - x.mean(0)

    def unexplained(channels):
        part = centred[:, list(channels)]
        return (y - part @ torch.linalg.lstsq(part, y).solution).square().sum()

    for step in range(1, 6):
        chosen, before = order[:step].tolist(), order[: step - 1].tolist()
        errors = {c: unexplained([*before, c]) for c in range(9) if c not in before and c != 4}
        assert errors[chosen[-1]] <= min(errors.values()) * 1.0001 + 1e-9
    assert sorted(order.tolist()) == list(range(9))
    assert set(order[-2:].tolist()) == {4, 7} or set(order[-2:].tolist()) == {4, 1}
    assert gain[-2:].tolist() == [0.0, 0.0]
    assert (
        min(unexplained(c) for c in itertools.combinations((0, 1, 2, 3, 5, 6, 8), 1)) >= unexplained(order[:1]) * 0.999
    )
