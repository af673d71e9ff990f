"""What commands print: tables for people, JSON for machines, one sentence for errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

#: Columns of a table that goes to a file or a pipe; a terminal decides for itself.
_WIDTH_IN_FILES = 132


def say(text: str) -> None:
    """Print one line to standard output."""
    sys.stdout.write(text + "\n")


def complain(text: str) -> None:
    """Print an error sentence to standard error."""
    sys.stderr.write(f"aqvolt: {' '.join(text.split())}\n")


def note(text: str) -> None:
    """Print a remark to standard error, where it does not mix with data."""
    sys.stderr.write(f"aqvolt: {text}\n")


def plain(value: Any) -> Any:
    """Return ``value`` as JSON types; dates in ISO 8601."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(v) for v in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "item") and not isinstance(value, str | bytes):
        return value.item()
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def emit(value: Any) -> None:
    """Print ``value`` as JSON."""
    say(json.dumps(plain(value), indent=2, ensure_ascii=False))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, list | tuple):
        return ", ".join(_cell(v) for v in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={_cell(v)}" for k, v in value.items())
    return "" if value is None else str(value)


def imported(reports: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print what importing files gave: a table, then what was broken, set aside or stopped, and where it lies."""
    table(reports, title="Imported", columns=columns)
    for report in reports:
        for sentence in report["broken"]:
            say(f"Broken: {sentence}")
        if report["quarantine"]:
            say(f"{report['quarantined']} broken records, with line and reason: {report['quarantine']}")
        for sentence in report["stopped"]:
            say(f"Stopped: {sentence}")
        for sentence in report.get("remarks", ()):
            say(f"Noted: {sentence}")


def table(
    rows: Sequence[Mapping[str, Any]],
    as_json: bool = False,
    title: str | None = None,
    columns: Sequence[str] | None = None,
) -> None:
    """Print rows as a table, or as a JSON list.

    Parameters
    ----------
    rows
        One mapping a row.
    as_json
        Print JSON.
    title
        Heading of the table.
    columns
        Which keys, in which order; by default those of the first row.
    """
    if as_json:
        emit([{k: row.get(k) for k in columns} if columns else row for row in rows])
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    names = list(columns or (rows[0].keys() if rows else []))
    drawn = Table(title=title, title_justify="left", header_style="bold", title_style="bold")
    for name in names:
        numeric = rows and all(isinstance(r.get(name), int | float) or r.get(name) is None for r in rows)
        drawn.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(escape(_cell(row.get(name))) for name in names))
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_IN_FILES)
    if not rows:
        console.print(f"{title or 'Nothing'}: none")
        return
    console.print(drawn)
