"""Settings of a study, as JSON values: whether two are of the same form, and how they differ."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_ABSENT = object()


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Every setting that is not the same, by its path (`mend.steps`), with both values."""
    before, now = dict(_leaves(stored)), dict(_leaves(given))
    lines = []
    for path in {**before, **now}:
        first, second = before.get(path, _ABSENT), now.get(path, _ABSENT)
        if first != second:
            shown = _shown(first), _shown(second)
            if shown[0] == shown[1]:
                shown = json.dumps(first), json.dumps(second)
            lines.append(f"{path} was {shown[0]}, now {shown[1]}")
    return lines


def _leaves(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "not set"
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) and value else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
