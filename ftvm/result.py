"""What came of a run, as a value: the JSON of ``ftvm run --json``."""

import msgspec

from ftvm.exitcodes import ExitCode
from ftvm.monitor.recovery import Incident

RESULT_VERSION = 1
"""Of the object that ``ftvm run --json`` writes."""


class ModuleReport(msgspec.Struct, frozen=True):
    """One module at the end of a run. ``state`` as in ftvm/monitor/service.py; ``faults`` counts by kind."""

    index: int
    state: str
    pid: int
    faults: dict[str, int] = msgspec.field(default_factory=dict)
    restarts: int = 0


class DivergenceReport(msgspec.Struct, frozen=True):
    """A difference between modules, as a value; ``module`` is None while nobody can say whose fault it is.

    ``kind`` is register, memory, chip, output, stop, death or hang; ``where`` names the first thing that differs.
    """

    position: int
    module: int | None
    kind: str
    where: str
    verdict: str
    recovered_in_ms: float | None

    @classmethod
    def of(cls, incident: Incident) -> "DivergenceReport":
        """What there is to say about it once it is settled."""
        first = incident.divergence.differences[0]
        return cls(
            incident.divergence.verified,
            incident.module,
            first.kind,
            first.where,
            incident.verdict,
            incident.recovered_in_ms,
        )


class FaultReport(msgspec.Struct, frozen=True):
    """A fault that was injected: in the notation of docs/fault-plans.md, the position at which it was first due, and
    what there is to say about it."""

    fault: str
    position: int
    note: str | None = None


class RunResult(msgspec.Struct, frozen=True):
    """What ``ftvm run --json`` writes.

    ``outcome`` is exit, stopped, timeout, halted, crash or fail-stop. ``exit_code`` is what the guest wrote to the
    debug-exit port, else None. ``state_digest`` is a hash over the architectural state, chips and RAM of the
    final verified state: equal for equal runs, whatever the epoch length or the number of modules. ``faults`` are those
    that were injected, in the order in which they were due.
    """

    version: int
    outcome: str
    exit_code: int | None
    modules: list[ModuleReport]
    sync_points: int
    blocks: int
    instructions: int | None
    divergences: list[DivergenceReport]
    wall_s: float
    virtual_s: float
    longest_pause_ms: float
    state_digest: str
    faults: list[FaultReport] = msgspec.field(default_factory=list)

    def to_json(self) -> bytes:
        """One JSON object with exactly the fields above."""
        return msgspec.json.encode(self)

    def process_exit_code(self) -> ExitCode:
        """What a process that did nothing but this run exits with."""
        match self.outcome:
            case "exit":
                return ExitCode.GUEST_FAILURE if self.exit_code else ExitCode.OK
            case "stopped":
                return ExitCode.OK
            case "timeout":
                return ExitCode.TIMEOUT
            case "fail-stop":
                return ExitCode.FAIL_STOP
            case _:
                return ExitCode.GUEST_STUCK
