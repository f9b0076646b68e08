"""Moments that arrive in parts are those of all rows together."""

import numpy as np
import torch

from greedyprune.pruning.moments import HeadMoments, Moments

from ..helpers.rows import correlated


def test_moments_of_parts_are_those_of_the_whole() -> None:
    rows = correlated(300, 7, 0)[0] + 50
    weights = torch.rand(300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights[::5] = 0
    moments = Moments(7)
    for part in (slice(0, 1), slice(1, 200), slice(200, 200), slice(200, 300)):
        moments.add(rows[part].float(), weights[part])
    rows = rows.float().double()
    assert np.allclose(moments.mean, np.average(rows, axis=0, weights=weights))
    assert np.allclose(moments.covariance, np.cov(rows.T, aweights=weights, ddof=0), rtol=1e-9)
    assert np.isclose(moments.weight, weights.sum())


def test_moments_of_nothing_are_zero() -> None:
    moments, heads = Moments(3), HeadMoments(2, 3)
    moments.add(torch.ones(4, 3), torch.zeros(4))
    assert moments.weight == 0
    assert not moments.covariance.any()
    assert not heads.moment.any()


def test_padded_rows_count_nowhere() -> None:
    rows = correlated(40, 5, 1, heads=2)[None].repeat(2, 1, 1, 1)  # [2 images, 2 heads, 40, 5]
    valid = torch.ones(2, 40, dtype=torch.bool)
    valid[1, 25:] = False
    for centred in (True, False):
        padded, exact = HeadMoments(2, 5), HeadMoments(2, 5)
        padded.add(torch.where(valid[:, None, :, None], rows, 1e6), valid[:, None].expand(-1, 2, -1), centred)
        exact.add(rows[:1], torch.ones(1, 2, 40), centred)
        exact.add(rows[1:, :, :25], torch.ones(1, 2, 25), centred)
        assert padded.weight.tolist() == exact.weight.tolist() == [65, 65]
        assert torch.allclose(padded.moment, exact.moment)


def test_heads_have_second_moments_about_zero_or_about_the_mean_of_each_image() -> None:
    rows = correlated(30, 4, 2, heads=3)[None].repeat(2, 1, 1, 1) + torch.tensor([5.0, -3.0])[:, None, None, None]
    weights = torch.rand(2, 3, 30, dtype=torch.float64)
    plain, centred = HeadMoments(3, 4), HeadMoments(3, 4)
    plain.add(rows, weights, centred=False)
    centred.add(rows, weights, centred=True)
    for head in range(3):
        flat, weight = rows[:, head].flatten(0, 1).numpy(), weights[:, head].flatten().numpy()
        assert np.allclose(plain.moment[head], (flat * weight[:, None]).T @ flat / weight.sum())
        own = [
            np.cov(rows[i, head].T, aweights=weights[i, head], ddof=0) * float(weights[i, head].sum()) for i in (0, 1)
        ]
        assert np.allclose(centred.moment[head], sum(own) / weight.sum())
