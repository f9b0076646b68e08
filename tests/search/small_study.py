"""Studies of a small model's sites, with records that tests can make up again."""

import random

import pytest

from greedyprune.errors import UserError
from greedyprune.search.record import Record
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
    return Record(
        site=site,
        round=number,
        kept=tuple(sorted(kept)),
        widths={name: width for name, (width, _) in SITES.items()} | {site: len(kept)},
        loss=rng.choice([None, rng.random() * 20]),
        subset_map=rng.random(),
        full_map=rng.choice([None, rng.random()]),
        target=rng.random() / 3,
        done=rng.random() < 0.5,
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
