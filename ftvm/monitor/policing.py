"""MTBF policing: a module or leg that collects faults too fast leaves service, even if each fault was harmless.

The rules are those of Stratus' fault-tolerant systems (Fault Tolerant System Administration, R1004H, "Managing MTBF
Statistics"): the mean time between the newest faults is computed at each fault, once there are enough of them. Below
the threshold the part is taken out, and it stays out until its record is cleared or its threshold changed.
"""

import math
from collections import deque
from enum import Enum, StrEnum

import msgspec

from ftvm.errors import UsageError

MAX_SAMPLES = 64
"""As many faults are remembered with their times, and a threshold can ask for as many."""


class Policy(StrEnum):
    """What becomes of a part that has a fault."""

    USE_THRESHOLD = "use-threshold"  # it leaves service when its MTBF is below the threshold
    NEVER_RESTART = "never-restart"  # it leaves service at the first fault
    ALWAYS_RESTART = "always-restart"  # it never leaves service for its faults


class Threshold(msgspec.Struct, frozen=True):
    """When faults come too fast. Raises UsageError for one that cannot be.

    ``seconds`` is the shortest mean time between faults that is tolerated, over the newest ``samples`` faults. With the
    default a part goes at its sixth fault within 25 minutes: a host that has more has a defect, not bad luck.
    """

    seconds: float = 300.0
    samples: int = 6
    policy: Policy = Policy.USE_THRESHOLD

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise UsageError(f"a threshold of {self.seconds:g} seconds", "give 0 or more; 300 is the default")
        if not 2 <= self.samples <= MAX_SAMPLES:
            raise UsageError(f"an MTBF over {self.samples} faults", f"give 2 to {MAX_SAMPLES}; 6 is the default")


class Verdict(Enum):
    """What to do with the part that had the fault."""

    KEEP = "keep in service"
    REMOVE = "take out of service"


class Policing:
    """The fault record of one module or leg. It has no clock: ``now_s`` are seconds on any that does not go back."""

    def __init__(self, threshold: Threshold | None = None) -> None:
        self.threshold = threshold or Threshold()
        """Put another one here at any time; it counts from the next question on."""
        self.counts: dict[str, int] = {}
        """Faults by kind, since the record was cleared."""
        self._times_s: deque[float] = deque(maxlen=MAX_SAMPLES)

    def record_fault(self, kind: str, now_s: float) -> Verdict:
        """Count a fault and judge. A clock that went back counts as one that stood still."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self._times_s.append(max(now_s, self._times_s[-1]) if self._times_s else now_s)
        return Verdict.KEEP if self.may_restart() else Verdict.REMOVE

    def may_restart(self) -> bool:
        """Whether the part may be in service, or come back by itself, with the record it has."""
        match self.threshold.policy:
            case Policy.ALWAYS_RESTART:
                return True
            case Policy.NEVER_RESTART:
                return not self._times_s
            case Policy.USE_THRESHOLD:
                mtbf_s = self.mtbf_s
                return mtbf_s is None or mtbf_s >= self.threshold.seconds

    @property
    def mtbf_s(self) -> float | None:
        """Mean time between the newest faults, as of the last one; None while there are fewer than ``samples``."""
        samples = self.threshold.samples
        if len(self._times_s) < samples:
            return None
        return (self._times_s[-1] - self._times_s[-samples]) / (samples - 1)

    @property
    def last_fault_s(self) -> float | None:
        """When the newest fault was, on the caller's clock."""
        return self._times_s[-1] if self._times_s else None

    def clear(self) -> None:
        """Forget all faults. The part may come back; that it does is up to whoever asks."""
        self.counts.clear()
        self._times_s.clear()
