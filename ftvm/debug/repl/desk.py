"""What all commands of the REPL share: the machine, what its addresses are called, where answers go."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from ftvm.debug.code import code_address, code_bits, word_bytes
from ftvm.debug.repl.expressions import evaluate
from ftvm.debug.repl.output import Output
from ftvm.debug.symbols import Symbols
from ftvm.errors import FtvmError, UsageError
from ftvm.machine import Machine
from ftvm.monitor.checkpoint import Ending
from ftvm.monitor.eventlog import Event
from ftvm.monitor.module_view import ModuleView

_QUIET = frozenset({"module-filling"})
"""Events that come too often to be told."""

_ENDINGS = {
    "exit": "the guest has ended{code}",
    "stopped": "stopped",
    "timeout": "the time is over",
    "halted": "the guest waits, and only input can wake it",
    "crash": "the guest has crashed (a triple fault)",
    "fail-stop": "fail-stop: the modules differ, and nobody can say who is right",
}


class Leave(Exception):
    """The user has done what there was to do."""


class Desk:
    """The machine ``machine`` with everything around it that commands need."""

    def __init__(self, symbols: Symbols, out: Output) -> None:
        self.symbols = symbols
        self.out = out
        self._machine: Machine | None = None
        self._names: dict[str, Any] = {"desk": self, "symbols": symbols}

    # ---- the machine ----

    @property
    def machine(self) -> Machine:
        assert self._machine is not None, "a desk gets its machine before its first command"
        return self._machine

    def attach(self, machine: Machine) -> None:
        """This machine is on the desk from now on; it runs as long as the session does."""
        self._machine = machine
        self._names["machine"] = machine

    def show_console(self, channel: str, data: bytes) -> None:
        """What the guest says, as it comes."""
        self.out.guest(data)

    def tell(self, event: Event) -> None:
        """A change of state, as it happens."""
        if event.kind not in _QUIET:
            self.out.line(f"{event.subject}: {event.detail.get('reason', event.kind)}", style="yellow")

    def run(self, position: int | None = None, text: str | None = None, timeout_s: float | None = None) -> None:
        """Let the guest run as far as this says, and tell how that ended."""
        with self.interruptible():
            ending = self.machine.run_until(position=position, text=text, timeout_s=timeout_s)
        self.tell_arrival(ending)

    def tell_arrival(self, ending: Ending | None) -> None:
        """Where the machine stands now, and why no further, if not because it was to."""
        code = "" if ending is None or ending.exit_code is None else f" with {ending.exit_code}"
        why = "" if ending is None else f"{_ENDINGS[ending.outcome].format(code=code)}; "
        self.out.line(why + self.here())

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Meanwhile Ctrl-C stops the guest, and not what the session is about; a second one interrupts that too."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.machine.request_stop()

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def python_names(self) -> dict[str, Any]:
        """What the user's Python finds, and where it keeps what it assigns."""
        return self._names

    # ---- modules ----

    def modules(self, index: int | None = None) -> list[ModuleView]:
        """Those that can be looked at; or just this one. Raises UsageError when there is none."""
        if index is not None:
            if not 0 <= index < len(self.machine.modules):
                raise UsageError(f"there is no module {index}", f"modules are 0 to {len(self.machine.modules) - 1}")
            return [self._there(self.machine.modules[index])]
        there = []
        for module in self.machine.modules:
            try:
                there.append(self._there(module))
            except UsageError:
                continue
        if not there:
            raise UsageError("no module is in service", "'status' says why; 'insert N' brings one back")
        return there

    def module(self, index: int | None = None) -> ModuleView:
        """This one, or the first that is in service."""
        return self.modules(index)[0]

    @staticmethod
    def _there(module: ModuleView) -> ModuleView:
        _ = module.registers  # raises when its process is gone
        return module

    # ---- what users write ----

    def number(self, text: str, module: int | None = None) -> int:
        """An address or number (ftvm/debug/repl/expressions.py), in terms of a module. Raises UsageError."""
        return evaluate(text, lambda name: self._name(name, module), lambda address: self._word(address, module))

    def _name(self, name: str, module: int | None) -> int:
        if not name.startswith("$") and name in self.symbols:
            return self.symbols.address(name)
        bare = name.removeprefix("$").lower()
        registers = self.module(module).registers
        if bare in registers:
            return registers[bare]
        if name.startswith("$"):
            raise UsageError(f"no register is called {bare!r}", "'regs --all' shows all of them")
        return self.symbols.address(name)

    def _word(self, address: int, module: int | None) -> int:
        view = self.module(module)
        return int.from_bytes(view.read_virtual(address, word_bytes(view.registers)), "little")

    # ---- what they read ----

    def called(self, address: int) -> str:
        """An address with its name: ``0x100010 main+0x4``."""
        name = self.symbols.describe(address)
        return f"{address:#x} {name}" if name else f"{address:#x}"

    def here(self) -> str:
        """Where the machine stands, in few words."""
        try:
            module = self.module()
            registers = module.registers
            address = code_address(registers)
        except FtvmError:
            return f"position {self.machine.position:,}"
        instruction = f" +{module.instruction}" if module.instruction else ""
        name = self.symbols.describe(address) or f"{address:#x}"
        return f"position {module.position:,}{instruction} at {name} ({code_bits(registers)} bit)"

    def states(self) -> str:
        """The modules in few words: ``0 duplexed, 1 duplexed``."""
        return ", ".join(f"{module.index} {module.state}" for module in self.machine.modules)


def differing(values: Sequence[object]) -> bool:
    return any(value != values[0] for value in values)
