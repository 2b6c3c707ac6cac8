"""The composition root: configuration in, machine out. The only file that imports every room.

with Machine(MachineConfig(image=Path("hello.elf"))) as machine:
    machine.run_until(text="ready")
    machine.inject(1, machine.position + 1000, RegisterBit("rax", 5))
    result = machine.run()
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import msgspec

from ftvm.boot import load
from ftvm.config import MAX_MODULES, MachineConfig
from ftvm.control import verbs
from ftvm.control.hook import EventHook
from ftvm.control.place import Claim
from ftvm.control.server import ControlServer
from ftvm.control.status import Status
from ftvm.display.keyboard import strokes
from ftvm.display.picture import png
from ftvm.display.screen import TEXT_BYTES, Screen
from ftvm.errors import FtvmError, HostError, UsageError
from ftvm.injection import Struck, check_fault
from ftvm.management import Management
from ftvm.memory_map import VGA_TEXT, ram_range
from ftvm.module.agenda import without_faults
from ftvm.module.board import BoardConfig
from ftvm.module.events import DebugHit, DebugWatch, FaultStruck
from ftvm.module.fault import ALWAYS, AtPosition, Change, Fault, Operation, Target
from ftvm.module.link import Snapshot
from ftvm.monitor import nursery
from ftvm.monitor.bays import Bays
from ftvm.monitor.block import Block
from ftvm.monitor.checkpoint import Checkpoint
from ftvm.monitor.console import Console
from ftvm.monitor.devices import Devices
from ftvm.monitor.ending import Ending
from ftvm.monitor.eventlog import Event, EventFile, EventLog, Observer
from ftvm.monitor.goal import Goal
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.lockstep import Lockstep
from ftvm.monitor.module_handle import ModuleHandle
from ftvm.monitor.module_view import ModuleView
from ftvm.monitor.net import Net
from ftvm.monitor.nics import Nics
from ftvm.monitor.poller import Poller, SyncPointPoller
from ftvm.monitor.recording import Recorder, Recording
from ftvm.monitor.recovery import Incident
from ftvm.monitor.report import explain
from ftvm.monitor.script import LoggedInput, Moment
from ftvm.monitor.service import Service
from ftvm.monitor.start import StartState
from ftvm.result import RESULT_VERSION, DivergenceReport, FaultReport, ModuleReport, RunResult
from ftvm.saving import Saving
from ftvm.units import GIB, format_size

__all__ = [
    "MAX_MODULES",
    "RESULT_VERSION",
    "DivergenceReport",
    "FaultReport",
    "Machine",
    "MachineConfig",
    "ModuleReport",
    "OnConsole",
    "RunResult",
]

SPINS = 12_000
"""Looks at the mailbox before a module sleeps, some 0.3 ms: as long as a request to a disk takes from its kick on. One
that has slept needs 50 us to come up, and finds its caches cold."""

OnConsole = Callable[[str, bytes], None]
"""Called with (channel, bytes) for output that all modules agreed on; channel is ``serial`` or ``debug``."""


class Machine:
    """One guest on its modules. Either call ``run`` once, which does all by itself, and look at what it left; or enter
    it as a context, and run it in stretches, as far as you want each time.

    ``on_console`` gets committed console output only, ``on_event`` each change of state; both on the thread that runs
    the machine. Raises UnusableFile for an image that cannot be booted, HostError when the host has not the memory.
    """

    def __init__(
        self, config: MachineConfig, on_console: OnConsole | None = None, on_event: Observer | None = None
    ) -> None:
        self._config = config
        self._log = EventLog(lambda: self.position, quiet=self._is_travelling)
        if on_event is not None:
            self._log.follow(on_event)
        _check_host_memory(config)
        self._start = _start_state(config)
        self._console = Console(on_console, self._verified_board)
        if self._start.typed:
            self._console.send(self._start.typed)
        self._poller = Poller()
        self._requests = SyncPointPoller(self._poller)
        self._stop = threading.Event()
        self._faults: list[Fault] = []
        self._struck = Struck(self._log, config.modules, self._half)
        self._incident_observers: list[Callable[[Incident], None]] = []
        self._fault_number = max((fault.number for fault in self._start.expected_faults()), default=0)
        self._service: Service | None = None
        self._image: VerifiedImage | None = None
        self._lockstep: Lockstep | None = None
        self._saving: Saving | None = None
        self._management: Management | None = None
        self._divergence_text: str | None = None
        self._resources: contextlib.ExitStack | None = None
        self._used = False
        self._began_s = 0.0
        self.disks: list[Block] = []
        """The I/O halves of the disks, by bay, while the machine runs: their ``mirror`` and its ``legs``."""
        self.nics: list[Net] = []
        """Those of the NICs: their ``team`` and its ``legs``."""

    def __enter__(self) -> "Machine":
        """Start the modules; they stand at the guest's first instruction. No process or memory outlives the context.

        Raises HostError when the host refuses memory or processes, EngineError when the CPU engine fails.
        """
        if self._used:
            raise UsageError("this machine was used already", "make another one of the same configuration")
        self._used = True
        self._began_s = time.monotonic()
        with contextlib.ExitStack() as resources:
            self._bring_up(resources)
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._resources is not None:
            resources, self._resources = self._resources, None
            resources.close()

    def _bring_up(self, resources: contextlib.ExitStack) -> None:
        config = self._config
        resources.callback(self._poller.close)
        bays = Bays(config.disks, self._log)
        resources.callback(bays.close)
        nics = Nics(config.nics, config.capture, self._log)
        resources.callback(nics.close)
        self._start = self._start.with_devices(bays.configs, nics.configs)
        bays.refuse_changed(self._start.disks)
        image = self._image = VerifiedImage(config.memory_bytes, threads=max(2, config.modules))
        resources.callback(image.close)
        service = self._service = Service(config.modules, self._start_module, image, self._log)
        resources.callback(service.close)
        service.start()  # the processes come up while the start image is made
        nursery.dismiss()
        self._start.fill(image)
        image.stand_at(self._start.snapshot)
        service.fill()
        requests = self._requests
        self.disks = bays.plug_in(image, self._poller, real_time=config.keeps_time)
        self.nics = nics.plug_in(image, self._poller)
        lockstep = self._lockstep = Lockstep(
            service,
            image,
            self._console,
            self._poller,
            requests,
            Devices(self._log, (*self.disks, *self.nics)),
            inputs=self._start.inputs,
            kicked=self._start.kicked,
            stop=self._stop,
            epoch_blocks=config.epoch_blocks,
            until_s=None if config.timeout_s is None else self._began_s + config.timeout_s,
            real_time=config.keeps_time,
            interactive=config.open_ended,
            on_fault=self._struck.note,
        )
        self._saving = Saving(config, self._start, lockstep, image, self._console, self.disks, self._log)
        lockstep.on_incident.append(self._note_incident)
        if config.event_log is not None:
            resources.callback(EventFile(str(config.event_log), self._log).close)
        if config.event_command is not None:
            hook = EventHook(config.event_command, config.name or str(os.getpid()), self._log, self._poller)
            resources.callback(hook.close)
        self._management = Management(
            self,
            config.name or str(os.getpid()),
            service,
            lockstep,
            image,
            [disk.legs for disk in self.disks],
            [nic.legs for nic in self.nics],
        )
        if config.name is not None:
            server = ControlServer(Claim(config.name), requests)
            resources.callback(server.close)
            verbs.register(server, self._management, self._log)
        lockstep.inject(self._faults)
        with self._saving.if_the_host_fails():
            lockstep.begin()
        if config.record is not None:
            recorder = Recorder(config.record, self._start.guest, self._start.board, lockstep, image, self._log)
            resources.callback(recorder.close)

    def run(self) -> RunResult:
        """Run the guest to its end, from wherever it stands. Outside of a context: boot or resume it before, and leave
        no process or memory behind, whatever ends this call.

        Raises HostError when the host refuses memory or processes, EngineError when the CPU engine fails.
        """
        if self._resources is not None:
            return self._run_to_end(at_once=False)
        with self:
            return self._run_to_end(at_once=True)

    def _run_to_end(self, at_once: bool) -> RunResult:
        lockstep, image = self._running()
        assert self._saving is not None
        with self._saving.if_the_host_fails():
            ending = lockstep.advance(Goal(), at_once)
        assert ending is not None, "there was no goal to reach"
        wall_s = time.monotonic() - self._began_s
        self._saving.at_end(ending.outcome)
        if lockstep.incidents:
            self._divergence_text = explain(lockstep.incidents[-1], image)
        return RunResult(
            version=RESULT_VERSION,
            outcome=ending.outcome,
            exit_code=ending.exit_code,
            modules=[ModuleReport(m.index, m.state, m.pid, m.faults, m.restarts) for m in self.modules],
            sync_points=lockstep.sync_points,
            blocks=image.position,
            instructions=None,
            divergences=[DivergenceReport.of(incident) for incident in lockstep.incidents],
            wall_s=wall_s,
            virtual_s=image.virtual_ns() / 1e9,
            longest_pause_ms=lockstep.longest_pause_s * 1e3,
            state_digest=image.digest(),
            faults=self._struck.reports[:],
        )

    def run_until(
        self,
        position: int | Moment | None = None,
        text: str | None = None,
        timeout_s: float | None = None,
        watch: DebugWatch | None = None,
        passed: frozenset[int] = frozenset(),
        sync_points: int | None = None,
    ) -> Ending | None:
        """Run the guest until it comes to ``position`` (or to a moment of waiting there), or ``text`` came on the
        serial console since it last stood still, or ``watch`` found something (see ``hit``; at a block entry, and not
        for the breakpoints ``passed`` in the first block), or to so many ``sync_points`` from here; None says so.
        Otherwise what ended the stretch before: the end of the guest, ``timeout`` after ``timeout_s`` or the
        configuration's own, ``stopped``, ``fail-stop``.

        After a text it stands at the block that follows the text's last byte, whatever the length of the epochs. After
        a timeout or a stop, it can go on. Inside a context only. Raises UsageError, HostError, EngineError.
        """
        lockstep, image = self._running()
        moment = Moment(position, 0) if isinstance(position, int) else position
        if moment is not None and moment.position < image.position:
            raise UsageError(f"the machine is at {image.position} already, past {moment.position}")
        if text == "":
            raise UsageError("an empty text to wait for")
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        return lockstep.advance(
            Goal(moment, None if text is None else text.encode(), until_s, watch, passed, sync_points=sync_points)
        )

    @property
    def hit(self) -> DebugHit | None:
        """What ended the last stretch, if it was what ``watch`` looked for. Inside a context only."""
        return self._running()[0].hit

    def checkpoint(self) -> Checkpoint:
        """The verified state as it is now, to be restored as often as wanted while the context lasts. It costs what the
        guest wrote since the last one. Raises UsageError, HostError.

        The guest's TLBs are empty from here on, so that what runs from here runs alike each time.
        """
        return self._running()[0].checkpoint()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Be again what the machine was then, with a sound module at every place: state, console, incidents, records of
        faults. Faults that were told since are forgotten. What the outside has seen or sent is not undone. Modules stay
        warm: only what changed is copied, and only what was translated from it is dropped.

        Raises UsageError, HostError.
        """
        lockstep, image = self._running()
        if checkpoint.memory.owner is not image:
            raise UsageError("a checkpoint of another machine")
        lockstep.restore(checkpoint)

    def holds(self, checkpoint: Checkpoint) -> bool:
        """Whether the verified state is exactly what it was then: registers, chips and RAM. Faults that are still to be
        injected are nothing that the guest can see. Much quicker than comparing digests.

        Raises UsageError.
        """
        image = self._running()[1]
        if checkpoint.memory.owner is not image:
            raise UsageError("a checkpoint of another machine")
        report = checkpoint.report
        return (
            image.arch == report.arch
            and without_faults(image.board) == without_faults(report.board)
            and image.holds(checkpoint.memory)
        )

    @property
    def moment(self) -> Moment:
        """Of the verified state. Inside a context only."""
        return self._running()[0].moment

    def follow_inputs(self, observer: Callable[[LoggedInput], None]) -> Callable[[], None]:
        """Call ``observer`` with all that enters the guest from now on, and where; the result ends that. With the state
        that the guest has now, it is all that its further run depends on. Inside a context only."""
        observers = self._running()[0].on_input
        observers.append(observer)
        return lambda: observers.remove(observer)

    def play(self, inputs: Sequence[LoggedInput], end: Moment, shown: bool = False) -> None:
        """From here to ``end``, repeat a run that had these inputs: nothing else enters, nothing leaves. ``shown``: but
        the console is shown. A stretch raises ScriptMismatch where the guest goes another way."""
        self._running()[0].play(inputs, end, shown)

    @property
    def board(self) -> BoardConfig:
        """What the guest sees of its computer."""
        return self._start.board

    @property
    def recording(self) -> Recording | None:
        """What it was made of, if it was."""
        return self._config.recording

    @property
    def checkpoint_bytes(self) -> int:
        """Memory that all checkpoints take together. Inside a context only."""
        return self._running()[1].kept_bytes()

    def _is_travelling(self) -> bool:
        """What happens happened before."""
        return self._lockstep is not None and self._lockstep.playing and not self._lockstep.script_shown

    @property
    def lockstep(self) -> Lockstep:
        """The loop itself, for those who go back and forth in it (ftvm/debug/session.py). Inside a context only."""
        return self._running()[0]

    def record(self, path: Path) -> Recorder:
        """Write what becomes of the guest from here on to a file, until that is closed or the context ends. Raises
        UsageError, HostError."""
        lockstep, image = self._running()
        recorder = Recorder(path, self._start.guest, self._start.board, lockstep, image, self._log)
        assert self._resources is not None
        self._resources.callback(recorder.close)
        return recorder

    def _running(self) -> tuple[Lockstep, VerifiedImage]:
        if self._resources is None or self._lockstep is None or self._image is None:
            raise UsageError("the machine is not running", "use it as a context: with Machine(config) as machine")
        return self._lockstep, self._image

    def _start_module(self, index: int) -> ModuleHandle:
        config = self._config
        # A module that waits may spin only on a core that nobody else needs: the monitor works meanwhile, and the
        # modules behind it may be at work still.
        spins = SPINS if len(os.sched_getaffinity(0)) > index + 1 else 0
        module = ModuleHandle(index, config.memory_bytes, self._poller)
        module.set_up(self._start.board, self._start.snapshot, spins)
        return module

    def suspend(self, path: Path) -> None:
        """Save the verified state to ``path``, with all input on its way into it, and end the run, ``stopped``.

        On the machine's thread. When it raises, the machine goes on: HostError when the file cannot be written,
        UsageError when there is nothing to go on with later.
        """
        self.save(path)
        if self._lockstep is not None:
            self._lockstep.stop_at_once()
        self.request_stop()

    def save(self, path: Path) -> None:
        """Write the verified state to ``path``, for ``ftvm resume``, and go on. As ``suspend`` else."""
        if self._saving is None:
            raise UsageError("nothing to save: the machine has not begun to run")
        self._saving.save(path)

    @property
    def saved_to(self) -> Path | None:
        """Where the machine was saved last."""
        return None if self._saving is None else self._saving.saved_to

    @property
    def not_saved(self) -> FtvmError | None:
        """Why it was not saved when the run ended, although the configuration says so."""
        return None if self._saving is None else self._saving.not_saved

    def status(self) -> Status:
        """What ``ftvm ctl status`` shows. Inside a context only."""
        return self._managed().status()

    def pull(self, target: verbs.Target) -> None:
        """Take a module (by its index), or a leg of a disk or NIC (``disk0.1``), out of service. Inside a context,
        while the machine stands still. Raises UsageError."""
        self._managed().pull(target)

    def insert(self, target: verbs.Target) -> None:
        """Begin to bring it back; it comes while the machine runs. As ``pull`` else."""
        self._managed().insert(target)

    def _managed(self) -> Management:
        self._running()
        assert self._management is not None
        return self._management

    def request_stop(self) -> None:
        """End the run, ``stopped`` in the state of the last sync point. From any thread, or a callback."""
        self._stop.set()
        self._poller.wake()

    def send_console(self, data: bytes) -> None:
        """Bytes for the guest's serial port, at the next sync point. From any thread, or a callback."""
        self._console.send(data)
        self._poller.wake()

    def send_keys(self, text: str) -> None:
        """Type on the PS/2 keyboard at the next sync point: characters of a US keyboard, and keys by name in braces,
        as in ``root{enter}`` or ``{ctrl-alt-del}``. From any thread, or a callback. Raises UsageError.

        A guest that waits for keys alone needs an ``interactive`` machine, as for input from the console.
        """
        self.press(strokes(text))

    def press(self, strokes: Sequence[bytes]) -> None:
        """The same for strokes that are scan codes already: each has those of keys that go down and up."""
        self._console.press(strokes)
        self._poller.wake()

    def every(self, interval_s: float, callback: Callable[[], object]) -> Callable[[], None]:
        """Call ``callback`` on the machine's thread about every ``interval_s`` while it runs; the result ends that.
        The verified state does not change meanwhile."""
        return self._poller.every(interval_s, callback)

    def attend(self, fd: int) -> None:
        """While the machine stands still: answer on its control socket until ``fd`` can be read."""
        came: list[int] = []
        self._poller.watch(fd, lambda: came.append(fd))
        try:
            self._stand_by(lambda: bool(came))
        finally:
            self._poller.unwatch(fd)

    def await_input(self) -> bool:
        """While the guest waits: until something is there that can wake it. False: the machine was told to stop."""
        self._stand_by(lambda: self._console.pending() or self._stop.is_set())
        told = self._stop.is_set()
        self._stop.clear()
        return not told

    def _stand_by(self, over: Callable[[], bool]) -> None:
        while not over():
            self._poller.wait(None)
            if self._requests.due:
                self._requests.run_due()

    def watch(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Call ``on_readable`` on the machine's thread whenever ``fd`` can be read (a terminal, a socket)."""
        self._poller.watch(fd, on_readable)

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``; for a callback that met the end of its file."""
        self._poller.unwatch(fd)

    @overload
    def inject(self, fault: Fault) -> None: ...
    @overload
    def inject(self, fault: int, position: int, target: Target, stuck_at: int | None = None) -> None: ...
    def inject(
        self, fault: Fault | int, position: int = 0, target: Target | None = None, stuck_at: int | None = None
    ) -> None:
        """Let a fault happen (ftvm/faults/). Before the machine runs, between two stretches, or from a callback.

        In short: (module, position, target), to flip the bit ``target`` in one module when it stands exactly at
        ``position``; with ``stuck_at`` (0 or 1) the bit keeps that value from then on, as a broken wire would.

        Raises UsageError for a module, register, bit or position that is not there, or not there any more.
        """
        if not isinstance(fault, Fault):
            assert target is not None
            stuck = {0: Operation.CLEAR, 1: Operation.SET}
            change = Change() if stuck_at is None else Change(stuck[stuck_at])
            fault = Fault(fault, AtPosition(position), target, change, lasting=0 if stuck_at is None else ALWAYS)
        check_fault(fault, self._config, self._start.board, self.position)
        self._fault_number += 1
        numbered = msgspec.structs.replace(fault, number=self._fault_number)
        if self._lockstep is None:
            self._faults.append(numbered)
        else:
            self._lockstep.inject([numbered])

    @property
    def struck(self) -> list[FaultStruck]:
        """The faults that struck, in the past of the verified state; one that happens again and again is there once."""
        return self._struck.faults

    def _half(self, device: str) -> Block | Net:
        halves: tuple[Block | Net, ...] = (*self.disks, *self.nics)
        return next(half for half in halves if half.name == device)

    def follow_incidents(self, observer: Callable[[Incident], None]) -> None:
        """Call ``observer`` at each incident, on the machine's thread, when it is settled. The verified state is that
        from which the modules began then: ``verified``."""
        self._incident_observers.append(observer)

    @property
    def verified(self) -> VerifiedImage:
        """The verified state itself, to be looked at. Inside a context only."""
        return self._running()[1] if self._image is None else self._image

    def _note_incident(self, incident: Incident, began: Moment) -> None:
        if not self._is_travelling():
            for observer in self._incident_observers:
                observer(incident)

    def _verified_board(self) -> bytes:
        return b"" if self._image is None else self._image.board

    @property
    def memory_bytes(self) -> int:
        """Of the guest's RAM."""
        return self._config.memory_bytes

    @property
    def position(self) -> int:
        """Of the verified state."""
        return 0 if self._image is None else self._image.position

    @property
    def modules(self) -> list[ModuleView]:
        """The places for modules; what they say of themselves is always what is there now."""
        service = self._service
        return [] if service is None else [ModuleView(service, slot.index) for slot in service.slots]

    @property
    def console(self) -> bytes:
        """What the guest showed on its consoles so far; at least the newest MiB of it."""
        return bytes(self._console.shown)

    @property
    def events(self) -> list[Event]:
        """The changes of state so far; at least the newest thousand."""
        return self._log.since(0)

    @property
    def digest(self) -> str:
        """Over the verified state, as ``state_digest`` of RunResult. Inside a context only."""
        return self._running()[1].digest()

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """What the comparisons found so far, and what was made of it."""
        return () if self._lockstep is None else tuple(self._lockstep.incidents)

    def explain(self, incident: Incident) -> str:
        """The report of an incident, for people. Inside a context only."""
        return explain(incident, self._running()[1])

    @property
    def state(self) -> Snapshot:
        """Registers and chips of the verified state. Inside a context only."""
        image = self._running()[1]
        return Snapshot(image.arch, image.board)

    @property
    def divergence_text(self) -> str | None:
        """The report of the last divergence, for people."""
        return self._divergence_text

    def read_memory(self, gpa: int, size: int) -> bytes:
        """``size`` bytes of verified guest physical memory. Raises UsageError where there is no RAM."""
        offset = ram_range(gpa, size, self._config.memory_bytes)
        if self._image is None or offset is None:
            raise UsageError(f"{size} bytes at {gpa:#x} are not RAM of this machine", "RAM is there once it runs")
        return self._image.ram[offset : offset + size]

    def screen(self) -> Screen:
        """What the VGA's text screen shows, from the verified state. Raises UsageError before the machine runs."""
        return Screen.of(self.read_memory(VGA_TEXT, TEXT_BYTES), b"" if self._image is None else self._image.board)

    def screenshot(self) -> bytes:
        """The same as a picture: a PNG file of 720 x 400 pixels."""
        return png(self.screen())


def _start_state(config: MachineConfig) -> StartState:
    if config.recording is not None:
        return StartState.replay(config.recording)
    stop_on = config.stop_on.encode() if config.stop_on else None
    if config.saved is not None:
        return StartState.resume(
            config.saved, stop_on=stop_on, real_time=config.keeps_time, interactive=config.open_ended
        )
    plan = load(
        config.image,
        initrd=config.initrd,
        append=config.append,
        ram_bytes=config.memory_bytes,
        modules=config.module_files,
        protocol=config.protocol,
    )
    board = BoardConfig(
        ram_bytes=config.memory_bytes,
        input=config.input or b"",
        input_after=config.input_after.encode() if config.input_after else None,
        stop_on=stop_on,
        real_time=config.keeps_time,
        interactive=config.open_ended,
    )
    return StartState.boot(f"{config.image} {config.append}".rstrip(), plan, board)


def _check_host_memory(config: MachineConfig) -> None:
    """RAM is shared out page by page, so the host would refuse it only in mid-run, by killing somebody."""
    needed = (config.modules + 1) * config.memory_bytes  # the modules' and the verified image
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise HostError(
            f"{config.modules} modules of {format_size(config.memory_bytes)} and their verified image need"
            f" {needed / GIB:.1f} GiB, the host has {there / GIB:.1f}",
            "give less --memory or fewer --modules",
        )
