"""Damage, and the widths that follow from it."""

import itertools
from dataclasses import replace

import pytest
import torch

from greedyprune.answer import Answer, Link, ObjectnessSoftmax, Sigmoid, Softmax
from greedyprune.pruning.damage import BOX_CURVATURE, DamageTable, divergence, pair_costs, width_grid
from greedyprune.pruning.pairing import counterpart
from greedyprune.sites import CountSite, HiddenSite, Reader, Site
from greedyprune.sites.change import Pairing

LINKS: list[Link] = [Sigmoid(), Softmax(), ObjectnessSoftmax()]
by_link = pytest.mark.parametrize("link", LINKS, ids=lambda link: type(link).__name__)


def answer(seed: int, link: Link, shift: float = 0.0, queries: int = 5) -> Answer:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, queries, 3, generator=draw, dtype=torch.float64)
    boxes = torch.rand(2, queries, 4, generator=draw, dtype=torch.float64)
    error = torch.Generator().manual_seed(seed + 1)
    return Answer(logits + shift * torch.randn(logits.shape, generator=error, dtype=torch.float64), boxes, link)


@by_link
def test_divergence_is_the_second_order_term_of_the_cross_entropy_against_the_dense_chances(link: Link) -> None:
    dense, near = answer(0, link), answer(0, link, 1e-3)
    rise = link.cross_entropy(near.logits, dense.logits) - link.cross_entropy(dense.logits, dense.logits)
    assert torch.allclose(divergence(near, dense), rise.sum(1), rtol=1e-2)
    assert divergence(dense, dense).tolist() == [0.0, 0.0]


@by_link
def test_a_box_counts_as_much_as_its_query_is_confident(link: Link) -> None:
    dense = answer(0, link)
    moved = replace(dense, boxes=dense.boxes + 0.01)
    sure = link.chances(dense.logits).amax(-1).sum(1)
    assert torch.allclose(divergence(moved, dense), BOX_CURVATURE * 4 * 0.01**2 * sure)


@by_link
def test_queries_that_are_ranked_are_paired_as_is_cheapest(link: Link) -> None:
    dense, near = (replace(answer(0, link, shift), ranked=True) for shift in (0.0, 0.3))
    assert torch.allclose(divergence(dense, dense), torch.zeros(2, dtype=torch.float64), atol=1e-9)
    shuffled = near.of_queries(torch.tensor([3, 1, 0, 4, 2]))
    assert torch.allclose(divergence(shuffled, dense), divergence(near, dense))
    gains, alone = pair_costs(near, dense)
    assert bool((gains <= 0).all())
    for image, found in enumerate(divergence(near, dense)):
        orders = itertools.permutations(range(5))
        least = min(sum(float(gains[image, row, column]) for row, column in enumerate(order)) for order in orders)
        assert float(found) == pytest.approx(float(alone[image]) + least)
    assert bool((divergence(near.of_queries(torch.arange(4)), dense) > 0).all())


@by_link
def test_a_query_that_is_gone_costs_what_its_absence_does_and_the_others_what_they_did(link: Link) -> None:
    dense, near = answer(0, link), answer(0, link, 0.1)
    kept = torch.tensor([4, 0, 2])
    found = divergence(near.of_queries(kept), dense, Pairing(kept))
    gone = dense.of_queries(torch.tensor([1, 3]))
    sides = torch.minimum(
        gone.boxes[..., 2], gone.boxes[..., 3]
    )  # it overlaps no more once it has moved by the shorter
    lost = BOX_CURVATURE * link.confidence(gone.logits) * sides.square()
    absent = (link.absence(gone.logits) + lost).sum(1)
    assert torch.allclose(found, divergence(near.of_queries(kept), dense.of_queries(kept)) + absent)
    everything = divergence(near, dense, Pairing(torch.arange(5)))
    assert torch.allclose(everything, divergence(near, dense))
    shuffled = torch.tensor([3, 1, 0, 4, 2])
    assert torch.allclose(divergence(near.of_queries(shuffled), dense, Pairing(shuffled)), divergence(near, dense))


def test_layers_that_are_gone_are_left_out_of_the_counterpart_and_the_last_answers_correspond() -> None:
    layers = [answer(seed, Sigmoid()) for seed in range(4)]
    dense = replace(layers[3], earlier=tuple(layers[:3]))

    def numbers(gone: set[int], queries: torch.Tensor | None = None) -> list[int]:
        left = counterpart(dense, Pairing(queries, frozenset(gone)))
        index = slice(None) if queries is None else queries
        return [
            next(n for n, each in enumerate(layers) if torch.equal(each.logits[:, index], a.logits))
            for a in left.layers()
        ]

    assert numbers(set()) == [3, 0, 1, 2]
    assert numbers({1}) == [3, 0, 2]
    assert numbers({3}) == [3, 0, 1]
    assert numbers({0, 3}) == [3, 1]
    assert numbers({0, 1, 2}) == [3]
    assert numbers({2}, torch.tensor([4, 1])) == [3, 0, 1]


def hidden(name: str, full: int, least: int = 1, **about: object) -> Site:
    return HiddenSite(name=name, label=name, part="x", full=full, least=least, readers=(Reader("out"),), **about)


def test_grids_hold_the_least_and_the_full_width_and_multiples_of_the_step() -> None:
    assert width_grid(hidden("ffn", 500), 32) == [32, 64, 128, 192, 256, 320, 384, 448, 500]
    assert width_grid(hidden("attn", 16, 8), 8) == [8, 16]
    assert width_grid(CountSite(name="layer", label="", part="", full=1, least=0), 1) == [0, 1]
    assert width_grid(CountSite(name="queries", label="", part="", full=50), 5) == [5, 10, 15, 20, 25, 35, 40, 45, 50]
    assert width_grid(hidden("narrow", 3), 16) == [3]


@pytest.mark.parametrize("product", [0.0, 0.02])
@pytest.mark.parametrize("budget", [40.0, 55.0, 80.0])
def test_the_widths_are_the_best_within_the_budget_and_keep_it_where_costs_multiply(
    product: float, budget: float
) -> None:
    sites = [hidden(name, 32) for name in ("attn", "ffn", "self")]
    points = {
        "attn": ([8, 16, 32], [3.0, 0.5, 0.0]),
        "ffn": ([8, 24, 32], [1.0, 0.2, 0.0]),
        "self": ([8, 16, 24], [0.7, 0.71, 0.0]),  # a narrower width that seems better: noise
    }
    table = DamageTable(sites, points, dict.fromkeys(points, 8))
    assert table.widths("ffn") == [8, 16, 24, 32]
    assert table.damage("ffn") == pytest.approx([1.0, 0.6, 0.2, 0.0])
    assert table.damage("self") == [0.71, 0.71, 0.0]

    def total(widths: dict[str, int]) -> float:
        lost = [32 - widths["attn"], 32 - widths["ffn"]]
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


@pytest.mark.parametrize("budget", [4.0, 9.0, 12.0, 15.0, 17.0, 22.0])
def test_a_layer_that_leaves_takes_what_is_inside_and_one_of_them_stays(budget: float) -> None:
    layers = [CountSite(name=n, label=n, part="layers", full=1, least=0, one_of="layers") for n in ("a", "b")]
    inner = [hidden(f"{layer}.ffn", 8, inside=layer) for layer in ("a", "b")]
    sites = [layers[0], inner[0], layers[1], inner[1]]
    points = {
        "a": ([0, 1], [5.0, 0.0]),
        "a.ffn": ([4, 8], [2.0, 0.0]),
        "b": ([0, 1], [1.5, 0.0]),
        "b.ffn": ([4, 8], [1.0, 0.0]),
    }
    table = DamageTable(sites, points, {"a": 1, "b": 1, "a.ffn": 4, "b.ffn": 4})

    def cost(name: str, width: int) -> float:
        return 3.0 * width if name in ("a", "b") else float(width)

    def total(widths: dict[str, int]) -> float:
        return sum(cost(n, widths[n]) + cost(f"{n}.ffn", widths[f"{n}.ffn"]) for n in ("a", "b") if widths[n])

    def damage_of(widths: dict[str, int]) -> float:
        gone = {name for name in ("a", "b") if not widths[name]}
        rows = [name for name in points if name.partition(".ffn")[0] not in gone or name in gone]
        return sum(table.damage(name)[table.widths(name).index(widths[name])] for name in rows)

    found, damage = table.best_widths(cost, total, budget)
    every = [dict(zip(points, ws, strict=True)) for ws in itertools.product(*(table.widths(n) for n in points))]
    allowed = [widths for widths in every if widths["a"] or widths["b"]]
    least = min(map(total, allowed))
    assert found["a"] or found["b"]
    assert total(found) <= max(budget, least)
    assert damage == pytest.approx(damage_of(found))
    assert damage == pytest.approx(min(damage_of(w) for w in allowed if total(w) <= max(budget, least)))
    for name in ("a", "b"):
        if not found[name]:
            assert found[f"{name}.ffn"] == 8


@pytest.mark.parametrize("share", [0.2, 0.4, 0.7, 1.0])
def test_widths_of_a_chain_are_the_best_of_the_measured_ones_or_better_and_keep_the_budget(share: float) -> None:
    sites = [hidden(name, 64) for name in "abcd"]
    grid = [8, 24, 40, 64]
    points = {
        name: (grid, [scale * (1 - width / 64) ** power for width in grid])
        for name, scale, power in (("a", 1.0, 2.0), ("b", 0.3, 1.5), ("c", 2.0, 3.0), ("d", 0.8, 1.2))
    }
    table = DamageTable(sites, points, dict.fromkeys(points, 8))
    pairs = {("a", "b"): 3.0, ("b", "c"): 1.0, ("b", "d"): 2.0, ("c", "d"): 5.0}

    def own(name: str, width: int) -> float:
        return 20.0 * width + (0.5 * width**2 if name == "c" else 0.0)

    def total(widths: dict[str, int]) -> float:
        chained = sum(each * widths[one] * widths[other] for (one, other), each in pairs.items())
        return 777.0 + chained + sum(own(name, width) for name, width in widths.items())

    budget = 777 + share * (total(dict.fromkeys("abcd", 64)) - 777)
    found, damage = table.best_chained_widths(own, pairs, total, budget)
    assert total(found) <= budget * (1 + 1e-9)
    assert damage == pytest.approx(sum(table.damage(n)[table.widths(n).index(w)] for n, w in found.items()))

    def best(widths: dict[str, list[int]]) -> float:
        every = [dict(zip("abcd", ws, strict=True)) for ws in itertools.product(*widths.values())]
        fit = [ws for ws in every if total(ws) <= budget]
        return min(sum(table.damage(n)[table.widths(n).index(w)] for n, w in ws.items()) for ws in fit)

    measured, every = best(dict.fromkeys(points, grid)), best({name: table.widths(name) for name in points})
    assert every - 1e-9 <= damage <= measured + 1e-9
    assert damage - every <= 0.02 * every + 1e-9
