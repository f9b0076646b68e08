"""Configurations that are Python are read as data, whatever is in them."""

import pytest

from greedyprune import UserError
from greedyprune.models.importing.config_text import PythonExpression, parts_with, read_settings


def test_numbers_text_lists_and_dictionaries_are_read():
    text = (
        "a = dict(b=-0.5, c=(1, [True, None]), **{'d': 1}) if 0 else 2\nb = c = dict(e={'f g': 'h'}, i=1e-3)\nb.e = 4"
    )
    found = read_settings(text, "here")
    assert found["b"] == found["c"] == {"e": {"f g": "h"}, "i": 1e-3}
    assert isinstance(found["a"], PythonExpression)
    assert read_settings("x = (1, -2.5)\nx = dict(y=((3,), ()))", "here") == {"x": {"y": [[3], []]}}


@pytest.mark.parametrize(
    "text", ["x = __import__('os').abort()", "x = dict(open('out', 'w'))", "x = [f'{1 / 0}']", "x = dict(**y)"]
)
def test_nothing_is_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (value,) = read_settings(text, "here").values()
    assert isinstance(value[0] if isinstance(value, list) else value, PythonExpression)
    assert not list(tmp_path.iterdir())


DAMAGED = {
    "no Python": "a = 1\nb = <function>",
    "nested": "a = " + "[" * 5000,
    "a long sum": "a = " + "-" * 100_000 + "1",
    "a null": "a = '\0'",
    "long": " " * 3_000_000,
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_configuration_is_refused(text):
    with pytest.raises(UserError, match=r"^file.pth: meta.cfg "):
        read_settings(text, "file.pth: meta.cfg")


def test_settings_are_found_at_any_depth():
    settings = read_settings("a = dict(b=[dict(c=1), dict(d=dict(c=2))], c=3)", "here")
    assert [part["c"] for part in parts_with(settings, "c")] == [3, 1, 2]
