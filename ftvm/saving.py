"""Saving a machine: when somebody asks for it, and when its run ends before the guest does."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ftvm.config import MachineConfig
from ftvm.errors import FtvmError, HostError, UsageError
from ftvm.module import events
from ftvm.monitor import savefile
from ftvm.monitor.block import Block
from ftvm.monitor.console import Console
from ftvm.monitor.eventlog import SUSPEND_FAILED, SUSPENDED, EventLog
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.lockstep import Lockstep
from ftvm.monitor.savefile import MachineState
from ftvm.monitor.start import StartState


class Saving:
    """Of a machine that runs; all calls on its thread."""

    def __init__(
        self,
        config: MachineConfig,
        start: StartState,
        lockstep: Lockstep,
        image: VerifiedImage,
        console: Console,
        disks: Sequence[Block],
        log: EventLog,
    ) -> None:
        self._config = config
        self._start = start
        self._lockstep = lockstep
        self._image = image
        self._console = console
        self._disks = disks
        self._log = log
        self.saved_to: Path | None = None
        """Where the machine was saved last."""
        self.not_saved: FtvmError | None = None
        """Why it was not saved when the run ended, although the configuration says so."""

    def save(self, path: Path) -> None:
        """Write the verified state, with all input on its way into it. Raises UsageError when there is nothing to go on
        with later, HostError when the file cannot be written, or a disk does not answer."""
        if self._lockstep.finished:
            raise UsageError("nothing to save: the guest ended by itself")
        start, console = self._start, self._console
        snapshot = self._lockstep.resumable()
        try:
            inputs, kicked = self._lockstep.unseen()
            if keys := console.keys_waiting():
                inputs = events.encode([*(events.decode_inputs(inputs) if inputs else ()), *keys])
            disks = [[*disk.mirror.stamps().values()] for disk in self._disks]
            state = MachineState(start.guest, start.board, snapshot, inputs, console.waiting(), kicked, disks)
            savefile.save(path, state, self._image)
        except HostError as error:
            self._log.emit(SUSPEND_FAILED, "machine", reason=error.message)
            raise
        self.saved_to = path
        self._log.emit(SUSPENDED, "machine", file=str(path))

    def at_end(self, outcome: str) -> None:
        """As the configuration says. How the run ended counts more than that it cannot be saved."""
        path = self._config.save_on_exit
        if outcome == "fail-stop":
            path = self._config.save_on_fail_stop or path
        if path is None:
            return
        try:
            self.save(path)
        except FtvmError as error:
            self.not_saved = error

    @contextlib.contextmanager
    def if_the_host_fails(self) -> Iterator[None]:
        """In this block."""
        try:
            yield
        except HostError:
            self.at_end("fail-stop")
            raise
