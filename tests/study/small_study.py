"""Studies of a small model's sites, with trials that tests can make up again."""

import random

import pytest
from optuna.distributions import IntDistribution

from greedyprune.errors import UserError
from greedyprune.study.study import Study
from greedyprune.study.trial import Grown, Trial

RANGES = {
    f"{part}.{layer}.{kind}": IntDistribution(32, 2048, step=32) if kind == "ffn" else IntDistribution(8, 256, step=8)
    for part, kinds in (("encoder", ("attn", "ffn")), ("decoder", ("self", "cross", "ffn")))
    for layer in range(2)
    for kind in kinds
} | {"queries": IntDistribution(0, 300, step=10)}
SETTINGS = {
    "version": 1,
    "schedule": "gp",
    "map_tol": 0.02,
    "mend": {"steps": 1100, "hold": 1},
    "seed": 0,
    "weights": "ab" * 32,
    "size": [160, 160],
    "note": None,
}


def trial_of(number: int) -> Trial:
    """A trial that is a function of its number, with floats that need all their digits."""
    rng = random.Random(number)
    site = list(RANGES)[number % len(RANGES)]
    kept = rng.sample(range(RANGES[site].high), rng.randint(1, 7) * RANGES[site].step)
    grown = Grown(site, number, tuple(sorted(kept)), rng.choice([None, rng.random() * 20]), rng.random() < 0.5)
    return Trial(
        phase=rng.choice(["budget", "move", "gp"]),
        step=number,
        widths={name: allowed.high for name, allowed in RANGES.items()} | {site: len(kept)},
        share=rng.random(),
        holds=rng.random() < 0.5,
        subset_map=rng.random(),
        full_map=rng.choice([None, rng.random()]),
        target=rng.random() / 3,
        params=rng.randrange(10**8),
        flops=rng.randrange(10**12),
        image_forwards=rng.randrange(10**5),
        seconds=rng.random() * 10,
        predicted=rng.choice([None, rng.random() * 3]),
        grown=rng.choice([None, grown]),
    )


def open_study(url, name="default", settings=SETTINGS, **options):
    return Study.open(str(url), name, settings, ranges=RANGES, **options)


def refusal(action, *arguments, **options) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(UserError) as caught:
        action(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
