"""A pytest plugin for those who test kernels: the fixture ``ftvm`` boots guests and disturbs them.

def test_a_flipped_bit_is_not_seen(ftvm):
    guest = ftvm.boot("kernel.elf", memory="64M")
    guest.wait_for("ready")
    guest.flip("rax", 5, after=1000)
    guest.type("run\\n")
    guest.wait_for("done")
    guest.expect_exit(0)
    assert guest.faults == {1: {"register": 1}}

Guests that a test leaves running end with it. When it fails, its report shows the end of their consoles.
docs/python-api.md has more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # pytest loads this file for whoever has ftvm installed: nothing more than it needs
    from ftvm.machine import Machine, MachineConfig, RunResult

TIMEOUT_S = 60.0
"""For each wait, and for a guest's end, unless the test says otherwise."""
SHOWN_LINES = 30
"""Of a console, when a test fails."""

_GUESTS: pytest.StashKey[list[Guest]] = pytest.StashKey()


class Guest:
    """A guest on its machine. What it does wrong fails the test; what the test does wrong raises UsageError."""

    def __init__(self, config: MachineConfig, name: str) -> None:
        from ftvm.machine import Machine

        self.name = name
        self._image = config.image
        self.machine: Machine = Machine(config)
        """For all that is not here."""
        self.result: RunResult | None = None
        """How it ended, once it did."""

    @property
    def console(self) -> str:
        """What it showed on its consoles so far."""
        return self.machine.console.decode(errors="replace")

    @property
    def faults(self) -> dict[int, dict[str, int]]:
        """Faults by kind that were found in each module, for those which had some."""
        return {module.index: module.faults for module in self.machine.modules if module.faults}

    def wait_for(self, text: str, timeout: float = TIMEOUT_S) -> None:
        """Let it run until ``text`` comes on its serial console; the test fails when it does not come."""
        ending = self.machine.run_until(text=text, timeout_s=timeout)
        if ending is not None:
            pytest.fail(f"{self.name}: {text!r} did not come: {_words(ending.outcome, ending.exit_code)}")

    def run_to(self, position: int, timeout: float = TIMEOUT_S) -> None:
        """Let it run to this position."""
        ending = self.machine.run_until(position=position, timeout_s=timeout)
        if ending is not None:
            pytest.fail(f"{self.name}: it did not come to {position}: {_words(ending.outcome, ending.exit_code)}")

    def type(self, text: str) -> None:
        """Text for its serial port, from where it goes on."""
        self.machine.send_console(text.encode())

    def flip(self, register: str, bit: int, module: int = 1, after: int = 1) -> None:
        """Flip a bit of a register of one module, so many blocks from here."""
        from ftvm.module.fault import RegisterBit

        self.machine.inject(module, self.machine.position + after, RegisterBit(register, bit))

    def inject(self, fault: str) -> None:
        """Any fault, as docs/fault-plans.md writes it: ``module=1,target=ram:0x1000:3,at=5000000``. The symbols of the
        image are known."""
        from ftvm.debug import symbols
        from ftvm.debug.symbols import Symbols
        from ftvm.faults import notation

        known = Symbols(symbols.of_image(self._image))
        self.machine.inject(notation.parse_fault(fault, notation.Guest(self.machine.board.ram_bytes, known.address)))

    def finish(self, timeout: float = TIMEOUT_S) -> RunResult:
        """Let it run to its end; the test fails when it does not come in time."""
        if self.result is None:
            ending = self.machine.run_until(timeout_s=timeout)
            if ending is not None and ending.outcome == "timeout":
                pytest.fail(f"{self.name}: still running after {timeout:g} s")
            self.result = self.machine.run()
        return self.result

    def expect_exit(self, code: int = 0, timeout: float = TIMEOUT_S) -> RunResult:
        """Let it run to its end, which must be this exit code (ACPI power-off counts as 0)."""
        result = self.finish(timeout)
        if result.outcome != "exit" or (result.exit_code or 0) != code:
            pytest.fail(f"{self.name}: {_words(result.outcome, result.exit_code)}, not exit {code}")
        return result

    def expect_like(self, other: Guest) -> RunResult:
        """Let both run to their ends: neither what they showed nor their final states may differ."""
        mine, theirs = self.finish(), other.finish()
        if (mine.outcome, mine.exit_code) != (theirs.outcome, theirs.exit_code):
            ends = f"{_words(mine.outcome, mine.exit_code)}, the other {_words(theirs.outcome, theirs.exit_code)}"
            pytest.fail(f"{self.name}: {ends}")
        assert self.console == other.console
        if mine.state_digest != theirs.state_digest:
            pytest.fail(f"{self.name}: its final state is not that of {other.name}, though it showed the same")
        return mine


class Guests:
    """What the fixture ``ftvm`` is."""

    def __init__(self, running: contextlib.ExitStack, booted: list[Guest]) -> None:
        self._running = running
        self._booted = booted

    def boot(self, image: str | Path, *, memory: str | int = "64M", **settings: Any) -> Guest:
        """Start a guest: a file, or a name that ``ftvm guests list`` shows. It stands at its first instruction.

        ``settings`` are fields of MachineConfig: ``append``, ``modules``, ``disks``, ``interactive``, ...
        """
        from ftvm.guests import catalogue
        from ftvm.machine import MachineConfig
        from ftvm.units import parse_size

        known = catalogue.find(str(image)) if not Path(image).exists() else None
        if known is not None:
            settings = {"initrd": known.initrd, "protocol": known.kind, **settings}
            settings["append"] = f"{known.append} {settings.get('append', '')}".strip()
        path = known.path if known is not None else Path(image)
        size = parse_size(memory) if isinstance(memory, str) else memory
        return self._begin(MachineConfig(image=path, memory_bytes=size, **settings), str(image))

    def replay(self, recording: str | Path, **settings: Any) -> Guest:
        """A guest at the beginning of a recorded run; ``Session`` goes through it."""
        from ftvm.machine import MachineConfig
        from ftvm.monitor.recording import load

        return self._begin(MachineConfig.replay(load(Path(recording)), **settings), str(recording))

    def _begin(self, config: MachineConfig, name: str) -> Guest:
        guest = Guest(config, name)
        self._running.enter_context(guest.machine)
        self._booted.append(guest)
        return guest


def _words(outcome: str, exit_code: int | None) -> str:
    return outcome if exit_code is None else f"{outcome} {exit_code}"


@pytest.fixture(name="ftvm")
def _ftvm(request: pytest.FixtureRequest) -> Iterator[Guests]:
    """Boots guests on lockstep modules: ``ftvm.boot("kernel.elf")`` (see docs/python-api.md of ftvm)."""
    booted: list[Guest] = []
    request.node.stash[_GUESTS] = booted
    with contextlib.ExitStack() as running:
        yield Guests(running, booted)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what its guests said last."""
    report = yield
    if report.when == "call" and report.failed:
        for guest in item.stash.get(_GUESTS, []):
            lines = guest.console.splitlines()[-SHOWN_LINES:]
            report.sections.append((f"console of {guest.name}", "\n".join(lines)))
    return report
