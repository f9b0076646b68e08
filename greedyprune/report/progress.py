"""Bars of how far an iteration is."""

import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress_bar(text: str, shown: bool | None = None) -> Callable[[Iterable[Item]], Iterable[Item]]:
    """A wrapper that shows on stderr how far an iteration is.

    Args:
        text: what is going on.
        shown: None: only when stderr is a terminal.
    """
    visible = sys.stderr.isatty() if shown is None else shown

    def wrap(items: Iterable[Item]) -> Iterable[Item]:
        bar: Iterable[Item] = tqdm(
            items, desc=text, file=sys.stderr, disable=not visible, dynamic_ncols=True, leave=False
        )
        return bar

    return wrap
