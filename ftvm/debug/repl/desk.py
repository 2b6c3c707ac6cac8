"""What all commands of the REPL share: the machine, what its addresses are called, where answers go."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from rich.text import Text

from ftvm.debug.code import Instruction, code_address, code_bits, instructions, word_bytes
from ftvm.debug.repl.expressions import evaluate
from ftvm.debug.repl.output import DIFFERS, FAINT, HERE, TITLE, Output
from ftvm.debug.repl.points import Points
from ftvm.debug.session import Session
from ftvm.debug.symbols import Symbols
from ftvm.errors import FtvmError, UsageError
from ftvm.machine import Machine
from ftvm.monitor.ending import Ending
from ftvm.monitor.eventlog import Event
from ftvm.monitor.module_view import ModuleView
from ftvm.terminal import SilentTerminal

SHOWN_DIFFERENCES = 6
STDIN = 0

_QUIET = frozenset({"module-filling"})
"""Events that come too often to be told."""

_ENDINGS = {
    "exit": "the guest has ended{code}",
    "stopped": "stopped",
    "timeout": "the time is over",
    "halted": "the guest waits, and only input can wake it",
    "crash": "the guest has crashed (a triple fault)",
    "cut-off": "the recording ends here",
    "fail-stop": "fail-stop: the modules differ, and nobody can say who is right",
}


class Leave(Exception):
    """The user has done what there was to do."""


class Desk:
    """The machine ``machine`` with everything around it that commands need."""

    def __init__(self, symbols: Symbols, out: Output) -> None:
        self.symbols = symbols
        self.out = out
        self.points = Points()
        self.places: dict[str, tuple[int, int]] = {}
        """Those that the user gave names: position and instruction."""
        self._machine: Machine | None = None
        self._session: Session | None = None
        self._names: dict[str, Any] = {"desk": self, "symbols": symbols}

    # ---- the machine ----

    @property
    def machine(self) -> Machine:
        assert self._machine is not None, "a desk gets its machine before its first command"
        return self._machine

    @property
    def session(self) -> Session:
        assert self._session is not None, "a desk gets its machine before its first command"
        return self._session

    def attach(self, machine: Machine) -> None:
        """This machine is on the desk from now on, inside of its context."""
        self._machine = machine
        self._session = Session(machine)
        self._names |= {"machine": machine, "session": self._session}

    def show_console(self, channel: str, data: bytes) -> None:
        """What the guest says, as it comes."""
        self.out.guest(data)

    def tell(self, event: Event) -> None:
        """A change of state, as it happens."""
        if event.kind not in _QUIET:
            self.out.line(f"{event.subject}: {event.detail.get('reason', event.kind)}", style="yellow")

    def run(
        self,
        position: int | None = None,
        text: str | None = None,
        timeout_s: float | None = None,
        address: int | None = None,
    ) -> None:
        """Let the guest run as far as this says, or to a breakpoint or watch, and tell how that ended."""
        watch = self.points.watch(*(() if address is None else (address,)))
        with self.interruptible():
            ending = self.session.run(position, text, timeout_s, watch)
        self.tell_hit()
        self.tell_arrival(ending)

    def back_to(self, *addresses: int) -> None:
        """Back to where a breakpoint or watch, or one of these addresses, was met last, and tell."""
        watch = self.points.watch(*addresses)
        if watch is None:
            raise UsageError("back to what?", "set a breakpoint or a watch first, or name an address or a position")
        with self.interruptible():
            found = self.session.back_to(watch)
        if found:
            self.tell_hit()
        else:
            self.out.line("nothing of that happened before; this is the first place that is known")
        self.tell_arrival(None)

    def tell_hit(self) -> None:
        """What stopped the guest, if a breakpoint or watch did."""
        hit = self.session.hit
        point = None if hit is None else self.points.found(hit)
        if point is not None:
            self.out.line(f"{point.number}: {point.text}", style=TITLE)

    def tell_arrival(self, ending: Ending | None) -> None:
        """Where the machine stands now; why no further, if not because it was to; what comes next there, and whether
        the modules differ."""
        code = "" if ending is None or ending.exit_code is None else f" with {ending.exit_code}"
        why = "" if ending is None else f"{_ENDINGS.get(ending.outcome, ending.outcome).format(code=code)}; "
        self.out.line(why + self.here())
        with contextlib.suppress(UsageError):
            view = self.module()
            following = next(instructions(view, code_address(view.registers), 1), None)
            if following is not None and ending is None:
                self.out.line(self.code_line(following, current=True))
        differences = self.session.differences()
        if differences:
            names = [f"{each.kind} {each.where}" for each in differences]
            more = f" and {len(names) - SHOWN_DIFFERENCES} more" if len(names) > SHOWN_DIFFERENCES else ""
            text = f"the modules differ: {', '.join(names[:SHOWN_DIFFERENCES])}{more}"
            self.out.line(text, style=DIFFERS)

    def code_line(self, instruction: Instruction, current: bool) -> Text:
        """An instruction with the name of what it refers to."""
        text = Text(f"{'=>' if current else '  '} {instruction.address:#x}  ", style=HERE if current else "")
        text.append(f"{instruction.code.hex(' '):<30} ", style=FAINT)
        text.append(f"{instruction.mnemonic} {instruction.operands}".rstrip())
        if instruction.target is not None and (name := self.symbols.describe(instruction.target)):
            text.append(f"  <{name}>", style=FAINT)
        return text

    def leave_past(self) -> None:
        """Something is about to happen that did not happen then: what came after this place is forgotten."""
        past = self.session.in_past or not self.session.compared
        self.session.branch()
        if past:
            self.out.line(f"what came after position {self.session.position:,} is forgotten")

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
            with SilentTerminal(STDIN):
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
            self.check_module(index)
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

    def check_module(self, index: int) -> None:
        """Raises UsageError for one that the machine does not have."""
        if not 0 <= index < len(self.machine.modules):
            raise UsageError(f"there is no module {index}", f"modules are 0 to {len(self.machine.modules) - 1}")

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
        session = self.session
        place = f"position {session.position:,}" + (f" +{session.instruction}" if session.instruction else "")
        if session.in_past:
            place += f" (the present is {session.present:,})"
        try:
            registers = self.module().registers
        except FtvmError:
            return place
        address = code_address(registers)
        return f"{place} at {self.symbols.describe(address) or f'{address:#x}'} ({code_bits(registers)} bit)"

    def states(self) -> str:
        """The modules in few words: ``0 duplexed, 1 duplexed``."""
        return ", ".join(f"{module.index} {module.state}" for module in self.machine.modules)


def differing(values: Sequence[object]) -> bool:
    return any(value != values[0] for value in values)
