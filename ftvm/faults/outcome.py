"""Outcome classes: what a run with faults came to, held against the run without."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from ftvm.monitor.ending import Ending
from ftvm.monitor.eventlog import LEG_FAILED
from ftvm.monitor.recovery import VERDICT_TRANSIENT, Incident


class Golden(Protocol):
    """The undisturbed run: how it ended (``outcome`` of an Ending), what the guest said, what it showed."""

    @property
    def ending(self) -> str: ...
    @property
    def exit_code(self) -> int | None: ...
    @property
    def console(self) -> bytes: ...


class Outcome(StrEnum):
    """What a fault came to, as the outside sees it."""

    MASKED = "masked"  # nothing noticed it, and nothing was wrong
    RECOVERED = "detected-recovered"  # noticed, put right, all modules in service
    FAILED_OVER = "detected-failed-over"  # noticed; the module left service, the guest went on
    SDC = "sdc"  # silent data corruption: wrong output, and an end as if all were well
    CRASH = "crash"  # the guest crashed or reported failure, or the machine stopped rather than guess
    HANG = "hang"  # it did not end
    MACHINE_CRASH = "machine-crash"  # ftvm itself failed


def classify(
    ending: Ending | None, console: bytes, golden: Golden, incidents: Sequence[Incident], legs: Sequence[str]
) -> Outcome:
    """The class of an experiment that ended with ``ending`` (None: not at all) and wrote ``console``.

    ``legs`` are the kinds of events that told of faults in legs. What the outside saw comes first: output that differs
    is never excused by a fault having been noticed.
    """
    if ending is None or ending.outcome == "timeout":
        return Outcome.HANG
    if (ending.outcome, ending.exit_code) != (golden.ending, golden.exit_code):
        return Outcome.CRASH if ending.outcome != "halted" else Outcome.HANG
    if console != golden.console:
        return Outcome.SDC
    if not incidents and not legs:
        return Outcome.MASKED
    if all(incident.verdict == VERDICT_TRANSIENT for incident in incidents) and LEG_FAILED not in legs:
        return Outcome.RECOVERED
    return Outcome.FAILED_OVER


def classify_alone(
    ending: Ending | None, console: bytes, golden: Golden, incidents: Sequence[Incident], legs: Sequence[str]
) -> Outcome:
    """The same for a module without another one: if it dies or hangs, that is how it ends."""
    if incidents:
        return Outcome.HANG if incidents[0].divergence.differences[0].kind == "hang" else Outcome.CRASH
    return classify(ending, console, golden, [], [])
