"""A run in a file: where it began, all that entered it, and what it must be on the way and at its end.

docs/recording-format.md describes the format. Every record is written as it comes and followed by a checksum over all
that is before, so that what a killed run leaves can be told from what was altered.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import xxhash

from ftvm.errors import HostError, UnusableFile, UsageError
from ftvm.module import events
from ftvm.module.agenda import expected_faults, without_faults
from ftvm.module.board import BoardConfig, unplugged
from ftvm.module.events import ExpectFaults
from ftvm.module.link import Snapshot
from ftvm.monitor import savefile
from ftvm.monitor.ending import Ending
from ftvm.monitor.eventlog import RECORD_FAILED, EventLog
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.lockstep import Lockstep
from ftvm.monitor.savefile import HEAD, FileKind, MachineState, Reader, encoded_header, opened, put_memory
from ftvm.monitor.script import LoggedInput, Moment, Place
from ftvm.units import MIB

RECORDING = FileKind(b"FTVMRECD", 1, "recording", "give a file that 'ftvm run --record' wrote", "replay")

MAX_RECORD_BYTES = 16 * MIB
"""One input is what one command to a module takes."""
LENGTH_BYTES = 4

MARK_S = 1.0
"""Wall time between two marks, at least; more where computing one takes more than MARK_SHARE of the time."""
MARK_SHARE = 0.01

_Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class Mark(msgspec.Struct, frozen=True, array_like=True, tag="mark", forbid_unknown_fields=True):
    """What the verified state was when it stood at this moment and so many inputs had entered."""

    position: _Count
    virtual_ns: _Count
    inputs: _Count
    digest: _Digest

    @property
    def place(self) -> Place:
        return Place(Moment(self.position, self.virtual_ns), self.inputs)


class End(msgspec.Struct, frozen=True, array_like=True, tag="end", forbid_unknown_fields=True):
    """The same for the end of the run, and how that came: see RunResult."""

    position: _Count
    virtual_ns: _Count
    inputs: _Count
    digest: _Digest
    outcome: Annotated[str, msgspec.Meta(max_length=64)]
    exit_code: int | None = None

    @property
    def place(self) -> Place:
        return Place(Moment(self.position, self.virtual_ns), self.inputs)


_Record = LoggedInput | Mark | End
_decode = msgspec.msgpack.Decoder(_Record).decode
_encode = msgspec.msgpack.Encoder().encode


# ---- writing ----


class Recorder:
    """Writes the run of ``loop`` to a file, from where it stands now. ``close`` at the end.

    Raises HostError when the file cannot be written. When that happens later (a full disk) it is an event, and the last
    thing this does: the machine goes on, and what there is can be replayed.
    """

    def __init__(
        self, path: Path, guest: str, board: BoardConfig, loop: Lockstep, image: VerifiedImage, log: EventLog
    ) -> None:
        if loop.playing:
            raise UsageError("a run that is repeated is not recorded", "go to the present first")
        self._path = path
        self._loop = loop
        self._image = image
        self._log = log
        self._first = loop.inputs_taken
        self._marked_s = time.monotonic()
        self._interval_s = MARK_S
        self._left_at: Mark | None = None
        self._digest = xxhash.xxh3_128()
        target = savefile.check_target(path)
        try:
            # Only its owner may read it: a guest's memory holds secrets.
            self._file = open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb", 0)
        except OSError as error:
            raise HostError(f"{path} cannot be written: {error.strerror}") from None
        try:
            header = encoded_header(MachineState(guest, board, Snapshot(image.arch, image.board)))
            self._put(HEAD.pack(RECORDING.magic, RECORDING.version, len(header)))
            self._put(header)
            put_memory(self._put, image)
            self._put(self._digest.digest())
        except OSError as error:
            self._file.close()
            raise HostError(f"{path} cannot be written: {error.strerror}") from None
        loop.go_cold()
        self._followed: list[tuple[list[Callable[..., None]], Callable[..., None]]] = [
            (loop.on_input, self._append),
            (loop.at_sync, self._look),
            (loop.on_leaving, self._leave),
        ]
        for observers, observer in self._followed:
            observers.append(observer)

    @property
    def path(self) -> Path:
        return self._path

    def close(self) -> None:
        """The end of the recording is where the machine stands; where it was live last, if it has gone back since."""
        if self._file.closed:
            return
        mark = self._left_at if self._loop.playing else None
        if mark is None:
            mark = self._mark()
        ending = self._loop.newest_ending or Ending("stopped")
        self._append(End(mark.position, mark.virtual_ns, mark.inputs, mark.digest, ending.outcome, ending.exit_code))
        self._stop()

    def _stop(self) -> None:
        self._file.close()
        for observers, observer in self._followed:
            observers.remove(observer)

    def _look(self) -> None:
        """At a sync point."""
        now_s = time.monotonic()
        if now_s - self._marked_s >= self._interval_s and not self._loop.playing:
            self._append(self._mark())
            self._marked_s = time.monotonic()
            self._interval_s = max(MARK_S, (self._marked_s - now_s) / MARK_SHARE)

    def _leave(self, for_good: bool) -> None:
        """The machine goes back. Unless ``for_good`` it will come to this place again, and go on from there."""
        if not self._loop.playing:
            self._left_at = self._mark()
            self._append(self._left_at)
        if for_good:
            self.close()

    def _mark(self) -> Mark:
        moment = self._loop.moment
        taken = self._loop.inputs_taken - self._first
        return Mark(moment.position, moment.virtual_ns, taken, self._image.digest())

    def _append(self, record: _Record) -> None:
        payload = _encode(record)
        try:
            self._put(len(payload).to_bytes(LENGTH_BYTES, "little") + payload)
            self._put(self._digest.digest())
        except OSError as error:
            self._stop()
            self._log.emit(RECORD_FAILED, "machine", file=str(self._path), reason=f"{self._path}: {error.strerror}")

    def _put(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        at = 0
        while at < len(data):
            at += self._file.write(data[at:]) or 0


# ---- reading ----


class Recording(msgspec.Struct, frozen=True):
    """A file that was found sound. ``state`` is where the run began; ``digest`` identifies that part of the file.

    ``end`` None: the run was killed, or the file cut off, behind ``last``.
    """

    path: Path
    state: MachineState
    digest: bytes
    inputs: list[LoggedInput]
    marks: list[Mark]
    end: End | None

    @property
    def last(self) -> Place:
        """As far as the run is known: there nothing more enters."""
        if self.end is not None:
            return self.end.place
        places = [Place(self.inputs[-1].moment, len(self.inputs) - 1)] if self.inputs else []
        return max([Place(Moment(0, 0), 0), *places, *(mark.place for mark in self.marks[-1:])])

    def undisturbed(self) -> "Recording":
        """The same run without the faults that were injected in one of its modules: what the guest did is the same.
        Those that all modules had alike are part of what it did."""
        state = self.state
        numbers = frozenset(fault.number for fault in expected_faults(state.snapshot.board) if fault.module is not None)
        board = without_faults(state.snapshot.board, numbers) if numbers else state.snapshot.board
        return msgspec.structs.replace(
            self,
            state=msgspec.structs.replace(state, snapshot=Snapshot(state.snapshot.arch, board)),
            inputs=[_undisturbed(entry) for entry in self.inputs],
        )

    def fill(self, image: VerifiedImage) -> None:
        """Put the RAM of the beginning into ``image``, which is all zero. Raises UnusableFile if the file changed."""
        with opened(self.path, RECORDING) as reader:
            reader.machine(image.put_pages)
            if reader.digest() != self.digest:
                raise UnusableFile(f"{self.path} was written to while the machine started", "try again")


def _undisturbed(entry: LoggedInput) -> LoggedInput:
    inputs = [*events.decode_inputs(entry.inputs)]
    if not any(isinstance(event, ExpectFaults) for event in inputs):
        return entry
    alike = [
        ExpectFaults([fault for fault in event.faults if fault.module is None])
        if isinstance(event, ExpectFaults)
        else event
        for event in inputs
    ]
    return msgspec.structs.replace(entry, inputs=events.encode(alike))


def load(path: Path, partial: bool = False) -> Recording:
    """The run that was recorded in ``path``. ``partial``: as far as it goes, if it has no end.

    Raises UnusableFile unless this build can repeat all of it.
    """
    with opened(path, RECORDING) as reader:
        state = reader.machine(lambda page, data: None)
        digest = reader.digest()
        if state.inputs or state.typed or state.kicked:
            raise reader.damaged()
        recording = Recording(path, state, digest, [], [], None)
        while reader.left and recording.end is None:
            record = _read_record(reader)
            if record is None:
                break
            recording = _with(recording, record, reader)
        if recording.end is not None and reader.left:
            raise reader.damaged()
    if recording.end is None and not partial:
        raise UnusableFile(
            f"{path} has no end: the run was killed, or the file was cut off",
            "--partial replays it as far as it goes",
        )
    _check(recording, reader)
    return recording


def _read_record(reader: Reader) -> _Record | None:
    """None: the file was cut off inside of it."""
    if reader.left < LENGTH_BYTES:
        return None
    size = int.from_bytes(reader.take(LENGTH_BYTES), "little")
    if size > MAX_RECORD_BYTES:
        raise reader.damaged()
    if reader.left < size + savefile.DIGEST_BYTES:
        return None
    payload = reader.take(size)
    reader.digest()
    try:
        record: _Record = _decode(payload)
    except savefile.UNDECODABLE:
        raise reader.damaged() from None
    return record


def _with(recording: Recording, record: _Record, reader: Reader) -> Recording:
    """``recording`` goes on with this."""
    match record:
        case LoggedInput():
            recording.inputs.append(record)
            return recording
        case Mark():
            recording.marks.append(record)
        case End():
            recording = msgspec.structs.replace(recording, end=record)
    if record.inputs > len(recording.inputs):
        raise reader.damaged()
    return recording


def _check(recording: Recording, reader: Reader) -> None:
    """A checksum does not prove where a file comes from."""
    board = unplugged(recording.state.board)
    places = [mark.place for mark in recording.marks] + ([recording.end.place] if recording.end else [])
    moments = [entry.moment for entry in recording.inputs]
    if places != sorted(places) or moments != sorted(moments):
        raise reader.damaged()
    try:
        for entry in recording.inputs:
            board.check(events.decode_inputs(entry.inputs))
    except (*savefile.UNDECODABLE, LookupError, ArithmeticError):
        raise reader.damaged() from None
