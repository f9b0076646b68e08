"""Forward selection takes what a greedy search takes that fits every candidate."""

import pytest
import torch
from torch import Tensor

from greedyprune.pruning.selection import Reading, forward_selection

from ..helpers.rows import correlated


def reader(channels: int, taps: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    """Centred rows `[200, channels * taps]` and what reads them."""
    rows = correlated(200, channels * taps, seed)[0]
    weight = torch.randn(dim, channels * taps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows - rows.mean(0), weight


def reading(rows: Tensor, weight: Tensor) -> Reading:
    return Reading(rows.T @ rows / len(rows), weight)


def unexplained(rows: Tensor, weight: Tensor, channels: list[int], taps: int) -> Tensor:
    columns = rows[:, [channel * taps + tap for channel in channels for tap in range(taps)]]
    output = rows @ weight.T
    return (output - columns @ torch.linalg.lstsq(columns, output).solution).square().sum() / len(rows)


@pytest.mark.parametrize("taps", [(1,), (4,), (1, 1), (1, 3), (4, 9)])
def test_the_order_is_that_of_a_greedy_search_which_fits_every_candidate(taps: tuple[int, ...]) -> None:
    channels = 6
    readers = [(*reader(channels, each, 5, seed), each) for seed, each in enumerate(taps)]
    chosen: list[int] = []
    gains = []
    left = sum((rows @ weight.T).square().sum() / len(rows) for rows, weight, _ in readers)
    for _ in range(channels):
        errors = {
            candidate: sum(unexplained(rows, weight, [*chosen, candidate], each) for rows, weight, each in readers)
            for candidate in set(range(channels)) - set(chosen)
        }
        best = min(errors, key=errors.__getitem__)
        chosen.append(best)
        gains.append(left - errors[best])
        left = errors[best]
    order, gain = forward_selection([reading(rows, weight) for rows, weight, _ in readers], channels)
    assert order.tolist() == chosen
    assert torch.allclose(gain, torch.stack(gains), rtol=1e-5, atol=1e-5 * float(gain.max()))


@pytest.mark.parametrize("taps", [1, 3])
def test_channels_that_never_vary_or_that_others_express_come_last_by_number(taps: int) -> None:
    rows, weight = reader(9, taps, 4, 7)
    blocks = rows.view(200, 9, taps).clone()
    blocks[:, 4] = 0
    blocks[:, 7] = blocks[:, 1]
    order, gain = forward_selection([reading(blocks.flatten(1), weight)], 9)
    assert sorted(order.tolist()) == list(range(9))
    last = order[-2:].tolist()
    assert last in ([4, 7], [1, 4])
    assert gain[-2:].tolist() == [0.0, 0.0]
    assert (gain[:-2] > 0).all()


def test_a_channel_that_one_reader_alone_gets_is_chosen_for_it() -> None:
    rows, weight = reader(5, 1, 3, 3)
    dead = rows.clone()
    dead[:, 2] = 0
    order, gain = forward_selection(
        [reading(dead, 1e-3 * weight), reading(rows * torch.eye(5, dtype=rows.dtype)[2], 100 * weight)], 5
    )
    assert order[0] == 2
    assert len(set(order.tolist())) == 5
    assert (gain > 0).all()
