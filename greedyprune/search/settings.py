"""Settings of a study, as JSON values: how two of them differ."""

import json
from collections.abc import Mapping
from typing import Any

_ABSENT = object()


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Every setting that is not the same, with both values."""
    lines = []
    for key in {**stored, **given}:
        before, now = stored.get(key, _ABSENT), given.get(key, _ABSENT)
        if before != now:
            shown = _show(before), _show(now)
            if shown[0] == shown[1]:
                shown = json.dumps(before), json.dumps(now)
            lines.append(f"{key} was {shown[0]}, now {shown[1]}")
    return lines


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "not set"
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) and value else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
