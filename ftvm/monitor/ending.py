"""The end of a run: what it follows from, and the way out of the loop."""

from collections.abc import Sequence

import msgspec

from ftvm.module.board import StopKind
from ftvm.module.events import GuestExit, Output, PowerOff, ResetRequest, StopText
from ftvm.module.link import Report


class Ending(msgspec.Struct, frozen=True):
    """How a stretch ended: ``outcome`` as in RunResult, and what the guest wrote to the debug-exit port, if it did."""

    outcome: str
    exit_code: int | None = None


HALTED = Ending("halted")
STOPPED = Ending("stopped")
TIMEOUT = Ending("timeout")
FAIL_STOPPED = Ending("fail-stop")
RESUMABLE = (STOPPED, TIMEOUT)
"""After these the machine can go on."""

_BY_STOP: dict[int, Ending] = {StopKind.HALTED: HALTED, StopKind.CRASH: Ending("crash")}


class Ended(Exception):
    """Leaves the loop from wherever the end of the run was noticed."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.outcome)
        self.ending = ending


def ending_of(report: Report, outputs: Sequence[Output]) -> Ending | None:
    """The end of the run, if an epoch that ended like this is the last one."""
    ending = _BY_STOP.get(report.stop)
    for output in outputs:
        match output:
            case StopText():
                ending = STOPPED
            case GuestExit(code):
                ending = Ending("exit", code)
            case PowerOff() | ResetRequest():
                ending = Ending("exit")
    return ending
