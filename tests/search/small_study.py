"""Studies of a small model's sites, with records that tests can make up again."""

import random

import pytest

from greedyprune.errors import UserError
from greedyprune.search.record import Growth, Proposal, Record
from greedyprune.search.study import Study

SITES = {
    f"{part}.{layer}.{kind}": (2048, 96) if kind == "ffn" else (256, 8)
    for part, kinds in (("encoder", ("attn", "ffn")), ("decoder", ("self", "cross", "ffn")))
    for layer in range(3)
    for kind in kinds
}
SETTINGS = {"schedule": "gp", "map_tol": 0.02, "seed": 0, "weights": "ab" * 32, "size": [160, 160], "note": None}


def record_of(number: int) -> Record:
    """A record that is a function of its number, with floats that need all their digits."""
    rng = random.Random(number)
    site = list(SITES)[number % len(SITES)]
    full, step = SITES[site]
    kept = rng.sample(range(full), rng.randint(1, 7) * step)
    growth = Growth(site, number, tuple(sorted(kept)), rng.choice([None, rng.random() * 20]), rng.random() < 0.5)
    proposal = Proposal(rng.choice(["budget", "move"]), number, rng.random(), rng.random() * 3, rng.random() < 0.5)
    return Record(
        origin=rng.choice([growth, proposal]),
        widths={name: width for name, (width, _) in SITES.items()} | {site: len(kept)},
        subset_map=rng.random(),
        full_map=rng.choice([None, rng.random()]),
        target=rng.random() / 3,
        params=rng.randrange(10**8),
        flops=rng.randrange(10**12),
        image_forwards=rng.randrange(10**5),
        seconds=rng.random() * 10,
    )


def open_study(url, name="default", settings=SETTINGS, **options):
    return Study.open(str(url), name, settings, sites=SITES, **options)


def refusal(action, *arguments, **options) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(UserError) as caught:
        action(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
