"""The only place that writes to a terminal: plain lines everywhere, colour and live tables where a person looks on.

`NO_COLOR` takes the colour away, `CI` and a redirected output the live view, `--quiet` everything but results and errors.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True)
class Output:
    """Where a command's words go. `quiet`: only what was asked for."""

    quiet: bool = False

    @property
    def terminal(self) -> bool:
        """Whether a person looks on: a terminal that can move its cursor, outside of CI."""
        return sys.stdout.isatty() and not os.environ.get("CI") and os.environ.get("TERM", "") not in ("", "dumb")

    @cached_property
    def console(self) -> Console:
        """Rich's console; asked for on a terminal only, so that plain output never imports it."""
        from rich.console import Console

        return Console(highlight=False)

    def result(self, text: str = "") -> None:
        """A line that was asked for; written even when quiet."""
        sys.stdout.write(f"{text}\n")

    def say(self, text: str = "") -> None:
        """A line that explains; left out when quiet."""
        if not self.quiet:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    def warn(self, message: str) -> None:
        """A line on stderr that does not end the command."""
        sys.stderr.write(f"clbench: {_one_line(message)}\n")

    def error(self, message: str) -> None:
        """The line on stderr that says why the command ends."""
        prefix, reset = ("\x1b[31mclbench:\x1b[0m", "") if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else ("clbench:", "")
        sys.stderr.write(f"{prefix} {_one_line(message)}{reset}\n")

    def traceback(self) -> None:
        """The traceback of the exception that is being handled."""
        import traceback

        sys.stderr.write(traceback.format_exc())

    @contextmanager
    def warnings_as_lines(self) -> Generator[None]:
        """Python's warnings as one line each, without a path into the sources."""
        before = warnings.showwarning
        warnings.showwarning = lambda message, *_args, **_more: self.warn(str(message))
        try:
            yield
        finally:
            warnings.showwarning = before

    def json(self, value: Any) -> None:
        """A value for another program."""
        sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
        """Aligned columns; the last one may wrap on a terminal, numbers stand right."""
        cells = [[_text(cell) for cell in row] for row in rows]
        if title:
            self.heading(title)
        if self.terminal:
            self._rich_table(columns, cells)
            return
        width = [max(len(column), *(len(row[n]) for row in cells), 0) for n, column in enumerate(columns)]
        right = [_numeric(row[n] for row in cells) for n in range(len(columns))]
        for row in [list(columns), *cells]:
            padded = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, width, right, strict=True)]
            self.result("  ".join(padded).rstrip())

    def measured(self, table: Table) -> None:
        """A table of rich's, with what stands above and below it."""
        if self.terminal:
            self.console.print(table)
            return
        rows = zip(*(list(column.cells) for column in table.columns), strict=True)
        self.table([str(column.header) for column in table.columns], rows, title=str(table.title or ""))
        if table.caption:
            self.result(str(table.caption))

    def heading(self, text: str) -> None:
        """A line above a table."""
        if self.terminal:
            self.console.print(f"[bold]{_escaped(text)}[/bold]")
        else:
            self.result(text)

    def _rich_table(self, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
        from rich.table import Table

        table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
        last = len(columns) - 1
        needed = [max(len(column), *(len(row[n]) for row in cells), 0) + 2 for n, column in enumerate(columns)]
        shortest = [max((len(word) for row in cells for word in row[n].split()), default=0) + 2 for n in range(len(columns))]
        fits = sum(needed[:-1]) + min(needed[last], max(shortest[last], 30)) <= self.console.width
        for number, column in enumerate(columns):  # where lines are too long every column but the first wraps, so that no number is cut
            right = _numeric(row[number] for row in cells)
            whole = number == 0 or (fits and number < last)
            table.add_column(column, justify="right" if right else "left", no_wrap=whole, style="bold" if number == 0 else "")
        for row in cells:
            table.add_row(*(_escaped(cell) for cell in row))
        self.console.print(table)


def said(error: BaseException) -> str:
    """An unexpected exception in one line: its type, its words, and the last place outside of installed libraries."""
    place, line = "", error.__traceback__
    while line is not None:
        file = line.tb_frame.f_code.co_filename
        if "site-packages" not in file and "<" not in file:
            place = f" ({os.path.basename(file)}:{line.tb_lineno})"
        line = line.tb_next
    return f"{type(error).__name__}: {str(error) or 'without a message'}{place}"


def _one_line(text: str) -> str:
    return " ".join(str(text).split("\n")).strip()


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _text(cell: Any) -> str:
    if cell is None:
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def _numeric(cells: Iterable[str]) -> bool:
    known = [cell for cell in cells if cell not in ("-", "")]
    return bool(known) and all(cell.lstrip("+-").replace(".", "", 1).replace(",", "").isdigit() for cell in known)


def duration(seconds: float | None) -> str:
    """Seconds for a reader: `0.4 s`, `9 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds is None:
        return "-"
    if 0 < seconds < 0.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
