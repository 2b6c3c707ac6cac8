"""Repeating a recorded run to its end, and looking on the way whether it is the same."""

import time
from dataclasses import dataclass

import msgspec

from ftvm.errors import UnusableFile
from ftvm.machine import Machine
from ftvm.monitor.goal import Goal
from ftvm.monitor.recording import Recording
from ftvm.monitor.script import Place

VERSION = 1
"""Of the object that ``ftvm replay --json`` writes."""


@dataclass(frozen=True)
class ReplayResult:
    """What ``ftvm replay --json`` writes.

    ``complete``: it came to the end of the recording; otherwise it was ended before. ``outcome`` and ``exit_code`` are
    how the recorded run ended, as in RunResult; ``cut-off`` if nobody knows. ``compared`` is how many states that the
    recording knows were the same. ``state_digest`` is that of the last state.
    """

    version: int
    complete: bool
    outcome: str
    exit_code: int | None
    blocks: int
    virtual_s: float
    inputs: int
    compared: int
    modules: int
    wall_s: float
    state_digest: str

    def to_json(self) -> bytes:
        """One JSON object with exactly the fields above."""
        return msgspec.json.encode(self)


class Differs(UnusableFile):
    """The run went another way than the recorded one."""


def replay(machine: Machine, recording: Recording) -> ReplayResult:
    """Let ``machine``, which was made of ``recording`` and has just been entered, repeat it.

    Raises Differs where a state is not what it was, ScriptMismatch where the guest does not come by.
    """
    began_s = time.monotonic()
    loop = machine.lockstep
    machine.play(recording.inputs, recording.last.moment, shown=True)
    checks = [(mark.place, mark.digest) for mark in recording.marks]
    if recording.end is not None:
        checks.append((recording.end.place, recording.end.digest))
    goals: list[tuple[Place, str | None]] = [*checks, (recording.last, None)]
    compared = 0
    for place, digest in goals:
        ending = loop.advance(Goal(place.moment, inputs=place.inputs))
        if ending is not None and Place(loop.moment, loop.inputs_taken) < place:
            if ending.outcome in ("timeout", "stopped"):
                break
            raise Differs(
                f"{recording.path}: this run ends at {loop.moment}, {ending.outcome}; the recorded one went on"
            )
        if digest is not None:
            if machine.digest != digest:
                before = recording.marks[compared - 1].place.moment if compared else "the beginning"
                raise Differs(
                    f"{recording.path}: this run differs from the recorded one; it went another way"
                    f" between {before} and {place.moment}"
                )
            compared += 1
    end = recording.end
    return ReplayResult(
        version=VERSION,
        complete=Place(loop.moment, loop.inputs_taken) >= recording.last,
        outcome="cut-off" if end is None else end.outcome,
        exit_code=None if end is None else end.exit_code,
        blocks=machine.position,
        virtual_s=loop.moment.virtual_ns / 1e9,
        inputs=loop.inputs_taken,
        compared=compared,
        modules=len(machine.modules),
        wall_s=time.monotonic() - began_s,
        state_digest=machine.digest,
    )
