"""The rows of a comparison as a table: for a terminal, as Markdown and as CSV."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from greedyprune.comparison.row import DENSE, Row
from greedyprune.report.console import count, number


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: heads it.
        value: of a row; None: there is none.
        format: a value in words.
        key: what CSV calls it.
    """

    name: str
    value: Callable[[Row], float | None]
    format: Callable[[float], str]
    key: str


def columns(rows: Sequence[Row]) -> list[Column]:
    """Those that something was measured for, the same of every row."""
    dense = next(row for row in rows if row.name == DENSE)
    names = [name for name in ("AP", "AP50") if name in dense.pruned.accuracy]
    found = [Column(name, _accuracy("pruned", name), number, f"pruned_{name}") for name in names]
    if any(row.retrained for row in rows):
        found += [
            Column(f"{name} retrained", _accuracy("retrained", name), number, f"retrained_{name}") for name in names
        ]
    found += [
        Column("multiply-adds", lambda row: row.final.cost.flops, count, "multiply_adds"),
        Column("parameters", lambda row: row.final.cost.params, count, "parameters"),
        Column("not zero", lambda row: row.nonzero, count, "parameters_not_zero"),
        Column("file", lambda row: row.sizes.file, _bytes, "file_bytes"),
        Column("ratio", lambda row: dense.sizes.dense / row.sizes.file, "{:.2f} x".format, "compression_ratio"),
    ]
    for label in dense.latency:
        short = label.replace(", batch ", " b")
        found.append(Column(short, _latency(label, "median"), _time, f"{_key(label)}_median_ms"))
        found.append(Column(f"{short}, 95 %", _latency(label, "p95"), _time, f"{_key(label)}_p95_ms"))
    return found


def terminal_table(rows: Sequence[Row]) -> Table:
    """What matters most, in a width that terminals have."""
    told = {column.key: column for column in columns(rows)}
    keys = [key for key in told if key.endswith("_AP")] + ["multiply_adds", "parameters_not_zero", "file_bytes"]
    keys += [key for key in told if key.endswith("_median_ms")][:1]
    shown = [told[key] for key in keys]
    table = Table(title="comparison", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in shown:
        table.add_column(Text(column.name.removeprefix("AP ").replace("multiply", "mult")), justify="right")
    for row in rows:
        table.add_row(Text(row.name), *_cells(row, shown))
    return table


def markdown(rows: Sequence[Row]) -> str:
    """Everything that was measured but the AP of single classes, and then that."""
    return f"{_markdown(rows, columns(rows))}\n{_markdown(rows, class_columns(rows))}"


def class_columns(rows: Sequence[Row]) -> list[Column]:
    """The AP of every class in the end."""
    names = list(rows[0].final.per_class)
    return [Column(name, lambda row, name=name: row.final.per_class.get(name), number, name) for name in names]  # type: ignore[misc]


def comma_separated(rows: Sequence[Row]) -> str:
    """Every number, unrounded, the AP of every class before and after retraining among them."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    told = columns(rows)
    classes = list(rows[0].final.per_class)
    states = ("pruned", "retrained") if any(row.retrained for row in rows) else ("pruned",)
    writer.writerow(
        ["name", "method", "amount", *(c.key for c in told), *(f"{s}_AP_{name}" for s in states for name in classes)]
    )
    for row in rows:
        results = [row.pruned, row.retrained][: len(states)]
        aps = ["" if each is None else each.per_class.get(name, "") for each in results for name in classes]
        writer.writerow([row.name, row.method, row.amount, *("" if v is None else v for v in _values(row, told)), *aps])
    return file.getvalue()


def _markdown(rows: Sequence[Row], told: Sequence[Column]) -> str:
    lines = ["| | " + " | ".join(column.name.replace("|", "\\|") for column in told) + " |"]
    lines.append("| --- |" + " ---: |" * len(told))
    lines += [f"| {row.name} | {' | '.join(_cells(row, told))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cells(row: Row, told: Sequence[Column]) -> list[str]:
    return ["-" if v is None else c.format(v) for v, c in zip(_values(row, told), told, strict=True)]


def _values(row: Row, told: Sequence[Column]) -> list[float | None]:
    return [column.value(row) for column in told]


def _accuracy(state: str, name: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        result = getattr(row, state)
        return None if result is None else result.accuracy[name]

    return value


def _latency(label: str, part: str) -> Callable[[Row], float | None]:
    return lambda row: getattr(row.latency[label], part) if label in row.latency else None


def _key(label: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in label)


def _bytes(value: float) -> str:
    return f"{value / 1e6:.2f} MB"


def _time(value: float) -> str:
    return f"{value:.2f} ms"
