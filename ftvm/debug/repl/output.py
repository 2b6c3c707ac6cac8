"""What the REPL shows: rich on a terminal, plain text without colours or wrapping elsewhere."""

import sys
from collections.abc import Iterable, Sequence
from typing import IO

from rich.console import Console
from rich.pretty import Pretty
from rich.table import Table
from rich.text import Text

from ftvm.errors import FtvmError

PLAIN_COLUMNS = 400
"""Lines in a file are as long as they need to be."""

# Styles, named for what they mean.
DIFFERS = "bold red"
HERE = "bold green"
NAME = "cyan"
FAINT = "dim"
TITLE = "bold"

Cell = str | Text


class Output:
    """Where the session's answers and the guest's console appear: in ``file``, by default standard output."""

    def __init__(self, file: IO[str] | None = None) -> None:
        self.stream = file or sys.stdout
        self.is_terminal = self.stream.isatty()
        self._console = Console(
            file=self.stream,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=True,
            width=None if self.is_terminal else PLAIN_COLUMNS,
        )
        self._at_line_start = True

    def line(self, text: Cell = "", style: str | None = None) -> None:
        """One line of an answer."""
        self.fresh_line()
        self._console.print(text if isinstance(text, Text) else printable(text), style=style)

    def lines(self, texts: Iterable[Cell]) -> None:
        for text in texts:
            self.line(text)

    def table(self, titles: Sequence[str], rows: Iterable[Sequence[Cell]], right: Sequence[int] = ()) -> None:
        """Columns under their titles; those with the numbers ``right`` are aligned there. Nothing without rows."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=TITLE)
        for number, title in enumerate(titles):
            table.add_column(title, justify="right" if number in right else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row))
        if not table.row_count:
            return
        self.fresh_line()
        with self._console.capture() as drawn:
            self._console.print(table)
        self._console.file.write("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()))

    def value(self, value: object) -> None:
        """A Python value."""
        self.fresh_line()
        self._console.print(Pretty(value))

    def error(self, error: FtvmError, where: str = "") -> None:
        """Whose fault it is and what to do, as the command line says it."""
        self.fresh_line()
        self._console.print(f"{where}error: {printable(error.message)}", style="red")
        if error.hint:
            self._console.print(f"{where}hint: {printable(error.hint)}")

    def guest(self, data: bytes) -> None:
        """Bytes of the guest's console, as they are on a terminal."""
        text = data.decode(errors="replace")
        self.stream.write(text if self.is_terminal else text.replace("\r\n", "\n"))
        self.stream.flush()
        self._at_line_start = data.endswith(b"\n")

    def fresh_line(self) -> None:
        """End the line that the guest has begun."""
        if not self._at_line_start:
            self._at_line_start = True
            self.stream.write("\n")


def printable(text: str) -> str:
    """What comes from a guest or a file must not write to a terminal's control characters."""
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)


def marked(text: str, differs: bool) -> Text:
    """A value of one module that another has otherwise is seen at once, also without colours."""
    return Text(f"{text} *" if differs else text, style=DIFFERS if differs else "")
