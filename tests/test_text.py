import os
import subprocess
import sys

import pytest

from greedyprune import UserError
from greedyprune.cli import run
from greedyprune.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("car [front] :car:", "car [front] :car:"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31mred\x00", r"\x1b[31mred\x00"),
        ("\u202eevil\u2028", r"\u202eevil\u2028"),
        ("lone \ud800", r"lone \ud800"),
        ("no\u00a0break\u3000", "no break "),
        ("", "''"),
        ("\U0001f468\u200d\U0001f469 \u6c7d\u8f66", "\U0001f468\u200d\U0001f469 \u6c7d\u8f66"),
    ],
)
def test_a_text_is_one_line_that_shows_what_is_in_it(text, shown):
    assert printable(text) == shown


def test_a_long_text_is_cut():
    assert printable("x" * 100, 10) == "xxxxxxx..."
    assert printable("x" * 100, None) == "x" * 100
    assert printable("\n" * 100, 10) == r"\n\n\n\..."


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_tool_prints_what_stdouts_encoding_lacks_as_escapes(encoding):
    tool = "from greedyprune.running import run; run(lambda: print('\\ud800 \\U0001f697 ok') or 0)"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", tool], env=environment, capture_output=True, timeout=60, check=True)
    assert done.stdout.startswith(b"\\ud800 ")
    assert done.stdout.endswith(b" ok\n")


def test_an_error_line_shows_control_characters_as_escapes(capsys):
    def main():
        raise UserError("file a\n\x1b[31m[/red]\ud800 is broken")

    with pytest.raises(SystemExit):
        run(main)
    assert capsys.readouterr().err == "error: file a \\x1b[31m[/red]\\ud800 is broken\n"
