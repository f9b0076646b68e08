"""Options that do something only beside others: a table says which, and one that would do nothing is refused."""

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greedyprune.errors import UserError


@dataclass(frozen=True)
class Need:
    """What an option needs in order to do something.

    Attributes:
        text: follows "--option does nothing in this call: ".
        met: whether these arguments, with their defaults, have it.
    """

    text: str
    met: Callable[[argparse.Namespace], Any]


Needs = Mapping[str, tuple[Need, ...]]


def parse_given(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, frozenset[str]]:
    """Parse a command line whose options are all optional.

    Returns:
        The arguments, and the names of those that were given.

    Raises:
        UserError: the command line cannot be parsed.
    """
    defaults = vars(parser.parse_args([]))
    # argparse sets a default only where the namespace has no value yet, and no option's value is None.
    unset = argparse.Namespace(**dict.fromkeys(defaults))
    given = {name: value for name, value in vars(parser.parse_args(argv, unset)).items() if value is not None}
    return argparse.Namespace(**defaults | given), frozenset(given)


def check_needs(args: argparse.Namespace, given: Collection[str], needs: Needs) -> None:
    """Refuse the first option of the table that was given and does nothing.

    Args:
        args: all arguments, with their defaults.
        given: names of those that were given.
        needs: option name -> what it needs; options that always do something are not in it.

    Raises:
        UserError: names the option and what it needs.
    """
    for name, wanted in needs.items():
        for need in wanted if name in given else ():
            if not need.met(args):
                flag = f"--no-{name}" if getattr(args, name) is False else f"--{name}"
                raise UserError(f"{flag} does nothing in this call: {need.text}; leave it out")
