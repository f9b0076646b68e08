"""Argparse types of words and paths: what no file system and no database takes is refused by its flag's name."""

from argparse import ArgumentTypeError
from pathlib import Path


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
