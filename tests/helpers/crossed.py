"""Cases that are every choice of one thing with every choice of another."""

from collections.abc import Collection, Iterator
from typing import Any

import pytest


def crossed(first: Collection[Any], second: Collection[Any]) -> Iterator[Any]:
    """Every pair of two collections: quick ones in which every choice comes up, and all others as slow tests."""
    length = max(len(first), len(second))
    quick = {(number % len(first), number % len(second)) for number in range(length)}
    for row, one in enumerate(first):
        for column, other in enumerate(second):
            marks = () if (row, column) in quick else pytest.mark.slow
            yield pytest.param(one, other, marks=marks, id=f"{one}-{other}")
