"""The bases of heads against truncated decompositions of what they stand for."""

import pytest
import torch
from torch import Tensor

from greedyprune.pruning.bases import query_key_basis, shared_key_basis, value_basis

from ..helpers.rows import correlated


@pytest.mark.parametrize("width", [1, 3, 6])
def test_the_query_key_basis_is_the_truncated_decomposition_of_the_logits(width: int) -> None:
    q, k = correlated(50, 6, 2, heads=3), correlated(40, 6, 3, heads=3)
    basis = query_key_basis(q.mT @ q, k.mT @ k)
    logits = q @ k.mT
    slim = (q @ basis.query[:, :width].mT) @ (k @ basis.key[:, :width].mT).mT
    u, s, vh = torch.linalg.svd(logits, full_matrices=False)
    best = (u[..., :width] * s[:, None, :width]) @ vh[:, :width]
    error, least = (logits - slim).norm(), (logits - best).norm()
    assert error <= least * 1.001 + 1e-6 * logits.norm()


def test_a_basis_at_full_width_is_exact_on_images_that_calibration_never_saw() -> None:
    q, k = correlated(50, 6, 2, heads=3), correlated(40, 6, 3, heads=3)
    q[..., 0] = 0  # a dead channel, and more channels than rows below
    basis = query_key_basis(q.mT @ q, k[:, :2].mT @ k[:, :2])
    assert torch.allclose(basis.query.mT @ basis.key, torch.eye(6, dtype=torch.float64).expand(3, 6, 6), atol=1e-8)
    weight = torch.randn(9, 3, 6, generator=torch.Generator().manual_seed(0)).double()
    values = value_basis(q.mT @ q, weight)
    assert torch.allclose(torch.einsum("ohw,hwd->ohd", values.output, values.value), weight, atol=1e-8)


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_the_value_basis_is_the_truncated_decomposition_of_the_output(width: int, metric: bool) -> None:
    o, weight = correlated(80, 5, 4, heads=2), correlated(9, 10, 5)[0].view(9, 2, 5)
    half = correlated(9, 9, 6)[0]
    root = half @ half.T if metric else torch.eye(9, dtype=torch.float64)
    basis = value_basis(o.mT @ o, weight, root if metric else None)
    for head in range(2):
        output = o[head] @ weight[:, head].T
        slim = o[head] @ basis.value[head, :width].T @ basis.output[:, head, :width].T
        s = torch.linalg.svdvals(output @ root)
        assert ((output - slim) @ root).norm() <= s[width:].norm() * 1.001 + 1e-4 * (output @ root).norm()


def test_shared_keys_beat_a_basis_of_either_product_alone_and_random_maps() -> None:
    q = [correlated(60, 6, seed, heads=2) for seed in (6, 7)]
    k = [correlated(60, 6, seed, heads=2) for seed in (8, 9)]
    moments = [x.mT @ x for x in q], [x.mT @ x for x in k]

    def error(queries: tuple[Tensor, Tensor], key: Tensor) -> float:
        parts = [x @ y.mT - (x @ r.mT) @ (y @ key.mT).mT for x, y, r in zip(q, k, queries, strict=True)]
        return sum(part.square().sum() for part in parts).item()

    def best_readers(key: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.linalg.solve(key @ c @ key.mT, key @ c) for c in moments[1])

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
