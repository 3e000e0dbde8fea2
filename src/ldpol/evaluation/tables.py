"""Tables of metrics as values: console, HTML report and documents render the same rows."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

DASH = "–"
Form = str
"""How a column writes a number: `percent`, `count`, or a format specification such as `.3f`."""


class Column(NamedTuple):
    """A column: its name, the unit in small print, and how it writes a number."""

    name: str
    unit: str = ""
    form: Form = ".3f"


class Row(NamedTuple):
    """A row.

    Attributes:
      name: in the first column.
      values: numbers, texts, lists of texts (one per line), `{"value", "low", "high"}`, or None.
      note: in small print beside the name.
      main: whether it is a headline.
    """

    name: str
    values: tuple[Any, ...]
    note: str = ""
    main: bool = False


class Table(NamedTuple):
    """A table with what is to be said of it.

    Attributes:
      title: its heading.
      columns: K of them.
      rows: each with K values.
      text: sentences that belong to it.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    text: str = ""


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def write(value: Any, form: Form = ".3f") -> str:
    """Write one number; a dash for what is none."""
    if not is_number(value):
        return value if isinstance(value, str) and value else DASH
    if form == "percent":
        return f"{100 * value:.1f}\u00a0%"
    return f"{value:,.0f}" if form == "count" else f"{value:{form}}"


def signed(estimate: Any, form: Form = "+.3f") -> str:
    """Write a difference `{"value", "low", "high"}` with its interval."""
    value, low, high = ((estimate or {}).get(name) for name in ("value", "low", "high"))
    ends = f" ({write(low, form)} to {write(high, form)})" if is_number(low) and is_number(high) else ""
    return write(value, form) + ends


def cell(value: Any, form: Form, small: Callable[[str], str] = lambda ends: f" ({ends})") -> str:
    """Write any value of a row; `small` wraps the ends of an interval."""
    if isinstance(value, Mapping):
        low, high = value.get("low"), value.get("high")
        ends = small(f"{write(low, form)} to {write(high, form)}") if is_number(low) and is_number(high) else ""
        return write(value.get("value"), form) + ends
    return write(value, form)


def as_text(table: Table) -> str:
    """Write a table for a console, without notes and intervals; its sentences below."""
    lines = [[table.title, *(column.name for column in table.columns)]]
    for row in table.rows:
        values = (value.get("value") if isinstance(value, Mapping) else value for value in row.values)
        cells = ["; ".join(value) if isinstance(value, list) else value for value in values]
        lines.append([row.name, *(write(v, c.form) for v, c in zip(cells, table.columns, strict=True))])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines]
    return "\n".join([*(text if table.rows else [table.title]), *([table.text] if table.text else [])])


def as_markdown(table: Table) -> str:
    """Write a table for a document, intervals included; its sentences below."""
    lines = [
        f"| {table.title} | {' | '.join(' '.join(filter(None, column[:2])) for column in table.columns)} |",
        "|---" + "|---:" * len(table.columns) + "|",
    ]
    for row in table.rows:
        cells = [_joined(value, column.form) for value, column in zip(row.values, table.columns, strict=True)]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join([*lines, *(["", table.text] if table.text else [])])


def _joined(value: Any, form: Form) -> str:
    return "<br>".join(value) if isinstance(value, list) else cell(value, form)


def numbers(values: Mapping[str, Any] | None, names: Sequence[str]) -> tuple[Any, ...]:
    """Return some entries of a dict as the values of a row, None for those that are missing."""
    found = values or {}
    return tuple(found.get(name) for name in names)
