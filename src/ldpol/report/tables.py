"""Cells and rows of the page's tables."""

from collections.abc import Sequence
from html import escape
from typing import Any

from ldpol.report.page import DASH, is_number


def head(*columns: tuple[str, str]) -> str:
    """Header cells: names with their units in small print."""
    return "".join(f"<th scope=col>{escape(name)}<small>{escape(unit)}</small></th>" for name, unit in columns)


def row(name: str, note: str, style: str, *cells: Sequence[str]) -> str:
    """A row: its name, a note in small print, and groups of cells."""
    data = "".join(f"<td>{cell}</td>" for part in cells for cell in part)
    return f"<tr class={style}><th scope=row>{escape(name)}<small>{escape(note)}</small></th>{data}</tr>"


def number(value: Any, digits: int = 3) -> str:
    """A number, or a dash for what is none."""
    return f"{value:.{digits}f}" if is_number(value) else DASH


def with_ends(write: Any, value: Any, ends: Any) -> str:
    """A value with its interval in small print."""
    known = isinstance(ends, Sequence) and len(ends) == 2 and all(map(is_number, ends))
    return write(value) + (f"<small>{write(ends[0])} to {write(ends[1])}</small>" if known else "")


def signed(estimate: Any) -> str:
    """A difference with its interval."""
    values = [(estimate or {}).get(name) for name in ("value", "low", "high")]
    if not is_number(values[0]):
        return DASH
    ends = f" ({values[1]:+.3f} to {values[2]:+.3f})" if is_number(values[1]) and is_number(values[2]) else ""
    return f"{values[0]:+.3f}{ends}"
