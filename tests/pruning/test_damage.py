"""Damage, and the widths that follow from it."""

import itertools

import pytest
import torch

from greedyprune.pruning.damage import BOX_CURVATURE, DamageTable, divergence, width_grid
from greedyprune.pruning.sites import Site


def answer(seed: int, shift: float = 0.0):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 5, 3, generator=draw, dtype=torch.float64)
    boxes = torch.rand(2, 5, 4, generator=draw, dtype=torch.float64)
    error = torch.Generator().manual_seed(seed + 1)
    logits = logits + shift * torch.randn(logits.shape, generator=error, dtype=torch.float64)
    return {"pred_logits": logits, "pred_boxes": boxes}


def test_divergence_is_the_second_order_term_of_the_cross_entropy_against_the_dense_chances() -> None:
    dense, near = answer(0), answer(0, 1e-3)
    chance = dense["pred_logits"].sigmoid()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    rise = entropy(near["pred_logits"], chance, reduction="none") - entropy(
        dense["pred_logits"], chance, reduction="none"
    )
    assert torch.allclose(divergence(near, dense), rise.sum((1, 2)), rtol=1e-2)
    assert divergence(dense, dense).tolist() == [0.0, 0.0]


def test_a_box_counts_as_much_as_its_query_is_confident() -> None:
    dense = answer(0)
    moved = {**dense, "pred_boxes": dense["pred_boxes"] + 0.01}
    sure = dense["pred_logits"].sigmoid().amax(-1).sum(1)
    assert torch.allclose(divergence(moved, dense), BOX_CURVATURE * 4 * 0.01**2 * sure)


def test_grids_hold_the_least_and_the_full_width_and_multiples_of_the_step() -> None:
    assert width_grid(Site("decoder.0.ffn", 500, 1, ()), 32) == [32, 64, 128, 192, 256, 320, 384, 448, 500]
    assert width_grid(Site("decoder.0.self", 16, 8, ()), 8) == [8, 16]


@pytest.mark.parametrize("product", [0.0, 0.02])
@pytest.mark.parametrize("budget", [40.0, 55.0, 80.0])
def test_the_widths_are_the_best_within_the_budget_and_keep_it_where_costs_multiply(
    product: float, budget: float
) -> None:
    points = {
        "encoder.0.attn": ([8, 16, 32], [3.0, 0.5, 0.0]),
        "encoder.0.ffn": ([8, 24, 32], [1.0, 0.2, 0.0]),
        "decoder.0.self": ([8, 16, 24], [0.7, 0.71, 0.0]),  # a narrower width that seems better: noise
    }
    table = DamageTable(points, dict.fromkeys(points, 8))
    assert table.widths("encoder.0.ffn") == [8, 16, 24, 32]
    assert table.damage("encoder.0.ffn") == pytest.approx([1.0, 0.6, 0.2, 0.0])
    assert table.damage("decoder.0.self") == [0.71, 0.71, 0.0]

    def total(widths) -> float:
        lost = [32 - widths["encoder.0.attn"], 32 - widths["encoder.0.ffn"]]
        return sum(widths.values()) + product * lost[0] * lost[1]  # two that are cut save less than each alone

    found, damage = table.best_widths(lambda _, width: float(width), total, budget)
    assert total(found) <= budget + 1e-6
    every = [dict(zip(points, ws, strict=True)) for ws in itertools.product(*(table.widths(n) for n in points))]
    damages = {
        tuple(ws.values()): sum(table.damage(n)[table.widths(n).index(w)] for n, w in ws.items()) for ws in every
    }
    assert damage == pytest.approx(damages[tuple(found.values())])
    if not product:
        fit = [damages[tuple(ws.values())] for ws in every if total(ws) <= budget]
        assert damage == pytest.approx(min(fit))
