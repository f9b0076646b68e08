"""Text of users and files: checked where it is given, and made fit for a line on a screen."""

import unicodedata
from argparse import ArgumentTypeError
from pathlib import Path

# Invisible, but part of what is read: they join letters and emoji.
_JOINERS = "\u200c\u200d"


def printable(text: str, limit: int | None = 60) -> str:
    """A text as one line that shows everything that is in it.

    Line breaks, tabs, control and formatting characters and lone surrogates become escapes as in Python (`\\n`,
    `\\x1b`, `\\ud800`), every kind of blank becomes a space, and an empty text becomes `''`.

    Args:
        text: any text.
        limit: a longer result is cut to so many characters, `...` included; None: it is not cut.
    """
    shown = "".join(_shown(character) for character in text) or "''"
    return shown if limit is None or len(shown) <= limit else f"{shown[: limit - 3]}..."


def _shown(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("unicode_escape").decode("ascii")


def plain_text(given: str) -> str:
    """An argparse type: words.

    Raises:
        ArgumentTypeError: there are none, or they hold what is no text: a null character, or bytes that are no UTF-8.
    """
    if not given.strip():
        raise ArgumentTypeError(f"{given!r} is empty; give a value, or leave the flag out")
    if "\0" in given:
        raise ArgumentTypeError(f"{given!r} holds a null character; give it without")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise ArgumentTypeError(f"{given!r} holds bytes that are no UTF-8; rename it") from None
    return given


def file_path(given: str) -> Path:
    """An argparse type: a path; see `plain_text`."""
    return Path(plain_text(given))
