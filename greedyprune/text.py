"""Text of users and files, such as class and file names, made fit for a line on a screen."""

import io
import sys
import unicodedata

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


def escape_what_stdout_lacks() -> None:
    """From now on, stdout shows characters that its encoding lacks as escapes, as stderr does, instead of raising."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
