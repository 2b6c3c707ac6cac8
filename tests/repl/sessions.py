"""A machine at a prompt, for tests: lines in, text out."""

import contextlib
import io
from collections.abc import Iterator

from ftvm.debug import symbols
from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.interpreter import Interpreter
from ftvm.debug.repl.output import Output
from ftvm.debug.symbols import Symbols
from ftvm.guests import catalogue
from ftvm.machine import Machine, MachineConfig


class Session:
    """Does lines as a user would type them."""

    def __init__(self, desk: Desk, screen: io.StringIO) -> None:
        self.desk = desk
        self.interpreter = Interpreter(desk)
        self._screen = screen

    def __call__(self, line: str) -> str:
        """Everything that is shown for a line which must succeed."""
        done, shown = self.attempt(line)
        assert done, shown
        return shown

    def refused(self, line: str) -> str:
        """The same for one that must not."""
        done, shown = self.attempt(line)
        assert not done, shown
        assert "error: " in shown
        return shown

    def attempt(self, line: str) -> tuple[bool, str]:
        self._screen.seek(0)
        self._screen.truncate()
        done = self.interpreter.execute(line)
        self.desk.out.fresh_line()
        return done, self.shown()

    def shown(self) -> str:
        """Since the last line that was typed here."""
        return self._screen.getvalue()


@contextlib.contextmanager
def session(name: str, append: str = "", modules: int = 2, memory_bytes: int = 16 << 20) -> Iterator[Session]:
    """One of the project's own kernels at a prompt; it stands at its first instruction."""
    guest = catalogue.find(name)
    assert guest is not None
    config = MachineConfig(
        image=guest.path,
        protocol=guest.kind,
        append=f"{guest.append} {append}".strip(),
        memory_bytes=memory_bytes,
        modules=modules,
        name=None,
    )
    screen = io.StringIO()
    desk = Desk(Symbols(symbols.of_image(guest.path)), Output(screen))
    with Machine(config, on_console=desk.show_console, on_event=desk.tell) as machine:
        desk.attach(machine)
        yield Session(desk, screen)
