"""Tables of the suites as HTML."""

from collections.abc import Mapping
from html import escape
from typing import Any

from ldpol.evaluation.tables import Table, cell
from ldpol.report.page import table as frame


def as_html(table: Table) -> str:
    """Write a table: its sentences above, a note in small print beside every name."""
    text = f"<p>{escape(table.text)}</p>" if table.text else ""
    if not table.rows:
        return text
    head = "".join(
        f"<th scope=col>{escape(column.name)}<small>{escape(column.unit)}</small></th>" for column in table.columns
    )
    body = ""
    for row in table.rows:
        cells = "".join(
            f"<td>{_cell(value, column.form)}</td>" for value, column in zip(row.values, table.columns, strict=True)
        )
        style = "main" if row.main else "sub"
        body += f"<tr class={style}><th scope=row>{escape(row.name)}<small>{escape(row.note)}</small></th>{cells}</tr>"
    texts = any(isinstance(value, str | list) for row in table.rows for value in row.values)
    return text + frame(head, body, "texts" if texts else "numbers")


def _cell(value: Any, form: str) -> str:
    if isinstance(value, list):
        return "<br>".join(map(escape, value))
    if isinstance(value, Mapping):
        return cell(value, form, small=lambda ends: f"<small>{escape(ends)}</small>")
    return escape(cell(value, form))
