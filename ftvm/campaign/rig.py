"""One guest on warm machines: a duplex one and a simplex one, brought to the campaign's start once, and put back after
each experiment.

An experiment begins where the fault strikes: the stretch before it is the golden run's. The experiments of a batch are
in the order of their positions, so that each goes on from where the one before it began.
"""

import bisect
import contextlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ftvm.campaign.experiment import Experiment, Trial
from ftvm.campaign.guest import config_of, make_disks, symbols_of
from ftvm.campaign.plan import CampaignPlan, Column, GuestPlan
from ftvm.campaign.prune import candidate, overwritten
from ftvm.campaign.space import fault_of
from ftvm.campaign.work import Golden
from ftvm.debug.code import code_address
from ftvm.errors import HostError, UnusableFile
from ftvm.faults.outcome import Outcome, classify, classify_alone
from ftvm.machine import Machine
from ftvm.module.fault import ALWAYS, Fault, Leg, RamBit
from ftvm.module.link import Snapshot
from ftvm.monitor.checkpoint import Checkpoint
from ftvm.monitor.ending import Ending
from ftvm.monitor.eventlog import LEG_FAILED, LEG_FAULT, MODULE_FAILED, MODULE_FAULT, Event
from ftvm.monitor.recovery import Incident

START_TIMEOUT_S = 600.0
"""Wall time for a guest to come to the campaign's start, and for its golden run."""
STRETCH_TIMEOUT_S = 300.0
"""Wall time from one milestone to the next. Only an engine that hangs takes so long."""
LONGER = 2
MORE_BLOCKS = 10_000
"""An experiment that runs this many times as long as the golden run, and so many blocks more, hangs."""

PRUNED = "pruned"
"""The verdict on a fault that cannot have an effect, and was not injected (prune.py)."""

LIMIT = "limit"
"""How a golden run ends that the plan ends."""


@dataclass(frozen=True)
class Milestone:
    """A state of the golden run. ``shown`` is how much of its console came before."""

    checkpoint: Checkpoint
    shown: int


class Stand:
    """A machine of one column with its guest, which stands at the start or at a later place of the golden run."""

    def __init__(self, plan: CampaignPlan, guest: GuestPlan, column: Column, golden: Golden | None = None) -> None:
        self.alone = column == "simplex"
        self.used = False
        """It ran, and there is an outside that cannot be put back."""
        self._guest = guest
        # A milestone ends an epoch. The one with the fault in it is to be as long as the plan says.
        self._first_epoch = 0 if self.alone else plan.epoch_blocks
        self.shown = bytearray()
        """The console since the campaign's start."""
        self.noticed_s: float | None = None
        """The monotonic time at which a module was first charged with a fault, since this was set to None."""
        self.legs: list[str] = []
        """What happened to legs, as kinds of events."""
        with contextlib.ExitStack() as resources:
            folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="ftvm-campaign-")))
            config = config_of(plan, guest, column, make_disks(guest, column, folder))
            self.machine = resources.enter_context(Machine(config, self._show, self._hear))
            self._come_to_start()
            self._start = self.machine.checkpoint()
            self._end: Checkpoint | None = None
            self.golden = golden if golden is not None and guest.outside else self._survey()
            self.milestones = [] if guest.outside else self._mark()
            self._resources = resources.pop_all()
        self._positions = [milestone.checkpoint.position for milestone in self.milestones]
        self._base = self.milestones[0] if self.milestones else None

    def close(self) -> None:
        """No process, memory or file is left."""
        # The only leg of a disk may be what the experiment broke: then nobody can close that in good order.
        with contextlib.suppress(*([HostError] if self.alone and self._guest.disks else [])):
            self._resources.close()

    def _show(self, channel: str, data: bytes) -> None:
        self.shown += data

    def _hear(self, event: Event) -> None:
        if self.noticed_s is None and event.kind in (MODULE_FAULT, MODULE_FAILED):
            self.noticed_s = time.monotonic()
        if event.kind in (LEG_FAULT, LEG_FAILED):
            self.legs.append(event.kind)

    # ---- the golden run ----

    def _come_to_start(self) -> None:
        guest, machine = self._guest, self.machine
        if guest.start_text is not None:
            ending = machine.run_until(text=guest.start_text, timeout_s=START_TIMEOUT_S)
        else:
            ending = machine.run_until(position=guest.start_position, timeout_s=START_TIMEOUT_S)
        if ending is not None:
            raise UnusableFile(
                f"the guest {guest.image} did not come to the campaign's start: {ending.outcome}",
                "start or start_text must be something that it comes to",
            )
        self.shown.clear()

    def _survey(self) -> Golden:
        """How the guest goes on from the start, undisturbed."""
        machine, guest = self.machine, self._guest
        self.used = guest.outside
        start_digest = machine.digest
        limit = None if guest.limit_blocks is None else self._start.position + guest.limit_blocks
        ending = machine.run_until(position=limit, timeout_s=START_TIMEOUT_S) or Ending(LIMIT)
        if ending.outcome in ("timeout", "fail-stop"):
            raise HostError(
                f"the golden run of {guest.image}: {ending.outcome}", "give the guest fewer blocks, or more time"
            )
        return Golden(
            start=self._start.position,
            end=machine.position,
            start_digest=start_digest,
            digest=machine.digest,
            ending=ending.outcome,
            exit_code=ending.exit_code,
            console=bytes(self.shown),
            ram_bytes=guest.memory_bytes,
        )

    def _mark(self) -> list[Milestone]:
        """States of the golden run at places that divide it evenly."""
        golden, machine = self.golden, self.machine
        self._end = machine.checkpoint()
        milestones = [Milestone(self._start, 0)]
        self._back_to(self._start, b"")
        for number in range(1, self._guest.milestones):
            position = golden.start + (golden.end - golden.start) * number // self._guest.milestones
            if position > machine.position:
                self._golden_to(position)
                milestones.append(Milestone(machine.checkpoint(), len(self.shown)))
        return milestones

    def _golden_to(self, position: int) -> None:
        ending = self.machine.run_until(position=position, timeout_s=START_TIMEOUT_S)
        if ending is not None:
            raise HostError(f"the golden run of {self._guest.image} did not come to {position} again")

    # ---- experiments ----

    def go(self, position: int) -> None:
        """Stand where the golden run stood at ``position``, with cold TLBs."""
        if self._base is None:  # there is no way back, and this is the first time
            self.used = True
            self._golden_to(position)
            return
        base = self.milestones[bisect.bisect_right(self._positions, position) - 1]
        if base.checkpoint.position < self._base.checkpoint.position <= position:
            base = self._base
        self._back_to(base.checkpoint, self.golden.console[: base.shown])
        if base.checkpoint.position < position:
            self._golden_to(position)
            base = Milestone(self.machine.checkpoint(), len(self.shown))
        self._base = base
        self.noticed_s = None

    def _back_to(self, checkpoint: Checkpoint, shown: bytes) -> None:
        self.machine.restore(checkpoint)
        self.shown[:] = shown

    def after(self, position: int) -> Sequence[Milestone]:
        """The milestones at which an experiment that begins there is compared with the golden run."""
        return self.milestones[bisect.bisect_right(self._positions, position + self._first_epoch) :]

    def is_at(self, milestone: Milestone) -> bool:
        """Whether nothing differs from the golden run there: the state, what was shown, and who is in service."""
        return (
            self.shown == self.golden.console[: milestone.shown]
            and self.whole()
            and self.machine.state == Snapshot(milestone.checkpoint.report.arch, milestone.checkpoint.report.board)
            and self.machine.holds(milestone.checkpoint)
        )

    def is_at_end(self) -> bool:
        """Whether the state is that in which the golden run ended."""
        return self.machine.digest == self.golden.digest if self._end is None else self.machine.holds(self._end)

    def whole(self) -> bool:
        """Whether all modules serve."""
        return all(module.state in ("duplexed", "online") for module in self.machine.modules)


class _Course:
    """What becomes of a machine from the fault at ``position`` on."""

    def __init__(self, stand: Stand, fault: Fault, position: int) -> None:
        self._stand = stand
        self._fault = fault
        self._position = position
        self._machine = stand.machine
        self._before = len(stand.machine.incidents)
        self.converged = False
        self.ending: Ending | None = None
        """None: it goes on for too long."""

    @property
    def incidents(self) -> Sequence[Incident]:
        return self._machine.incidents[self._before :]

    def run(self) -> None:
        """To the end, or to the first milestone at which nothing differs from the golden run any more."""
        golden = self._stand.golden
        for milestone in self._stand.after(self._position):
            if self._over(milestone.checkpoint.position):
                return
            if not self._lasts(milestone.checkpoint.position) and self._stand.is_at(milestone):
                self.converged = True
                self.ending = Ending(golden.ending, golden.exit_code)
                return
        limited = golden.ending == LIMIT
        far = golden.end if limited else golden.end + (LONGER - 1) * (golden.end - golden.start) + MORE_BLOCKS
        if not self._over(far) and limited:
            self.ending = Ending(LIMIT)

    def _lasts(self, position: int) -> bool:
        """Bits may be held there: what is alike is so by chance, and may differ again."""
        return self._fault.lasting == ALWAYS or self._position + self._fault.lasting > position

    def _over(self, position: int) -> bool:
        """Run on to ``position``; whether the experiment ended before."""
        self.ending = self._machine.run_until(position=position, timeout_s=STRETCH_TIMEOUT_S)
        return self.ending is not None or (self._stand.alone and bool(self.incidents))

    def outcome(self) -> str:
        golden = self._stand.golden
        console = golden.console if self.converged else bytes(self._stand.shown)
        how = classify_alone if self._stand.alone else classify
        return how(self.ending, console, golden, self.incidents, self._stand.legs)

    def latent(self) -> bool:
        """Whether the final state is not the golden run's."""
        return not self.converged and not self._stand.is_at_end()


class Rig:
    """Both columns' machines of one guest. ``golden`` is what it does undisturbed."""

    def __init__(self, plan: CampaignPlan, guest: int) -> None:
        self.guest = guest
        self._plan = plan
        self._stands: dict[Column, Stand] = {}
        self._symbols = symbols_of(plan.guest[guest])
        self._golden: Golden | None = None
        self.golden = self.stand(plan.columns[0]).golden

    def close(self) -> None:
        """No process or memory of its machines is left."""
        for stand in self._stands.values():
            stand.close()
        self._stands.clear()

    def conduct(self, experiment: Experiment, column: Column) -> Trial:
        """Run one experiment in one column. Raises whatever the machine raises: it must not."""
        stand = self.stand(column)
        stand.go(experiment.position)
        fault = fault_of(experiment, self.golden.ram_bytes)
        place = self._symbols.place(_address(fault, stand.machine))
        symbol = None if place is None else place.name
        register = candidate(fault, self._plan.epoch_blocks) if self._plan.prune else None
        if register is not None:
            if overwritten(stand.machine, register):
                return self._pruned(experiment.id, column, symbol)
            stand.go(experiment.position)
        began_s = time.monotonic()
        inject(stand.machine, fault, column)
        course = _Course(stand, fault, experiment.position)
        course.run()
        wall_s = time.monotonic() - began_s
        incidents = course.incidents
        recovered_ms = sum(incident.recovered_in_ms or 0.0 for incident in incidents)
        noticed_s = stand.noticed_s
        first = incidents[0] if incidents else None
        trial = Trial(
            experiment=experiment.id,
            column=column,
            outcome=course.outcome(),
            ending=_words(course.ending),
            latent=course.latent(),
            detected_after=None if first is None else _detected_at(first) - experiment.position,
            detected_ms=None if noticed_s is None else max(0.0, (noticed_s - began_s) * 1e3 - recovered_ms),
            recovered_ms=recovered_ms if incidents else None,
            verdict=None if first is None else first.verdict,
            first=None if first is None else first.divergence.differences[0].where,
            charged=None if first is None else first.module,
            symbol=symbol,
            blocks=stand.machine.position - experiment.position,
            converged=course.converged,
            wall_ms=round(wall_s * 1e3, 3),
        )
        if stand.used or not stand.whole() or fault.lasting or fault.every:  # broken hardware is not restored
            self._stands.pop(column).close()
        return trial

    def _pruned(self, number: int, column: Column, symbol: str | None) -> Trial:
        """What comes of a fault that cannot have an effect."""
        return Trial(
            experiment=number,
            column=column,
            outcome=Outcome.MASKED,
            ending=_words(Ending(self.golden.ending, self.golden.exit_code)),
            latent=False,
            detected_after=None,
            detected_ms=None,
            recovered_ms=None,
            verdict=PRUNED,
            first=None,
            charged=None,
            symbol=symbol,
            blocks=0,
            converged=True,
            wall_ms=0.0,
        )

    def stand(self, column: Column) -> Stand:
        stand = self._stands.get(column)
        if stand is None or stand.used:
            if stand is not None:
                stand.close()
            guest = self._plan.guest[self.guest]
            stand = self._stands[column] = Stand(self._plan, guest, column, self._golden)
            self._golden = stand.golden
        return stand


def inject(machine: Machine, fault: Fault, column: Column) -> None:
    """Tell a machine that stands at the fault's position, or before it. In simplex there is one module, and one leg."""
    if column == "simplex":
        if isinstance(fault.target, Leg):
            fault = msgspec.structs.replace(fault, target=msgspec.structs.replace(fault.target, leg=0))
        else:
            fault = msgspec.structs.replace(fault, module=0)
    machine.inject(fault)


def _address(fault: Fault, machine: Machine) -> int:
    """What the fault hits: the datum, or the code that is about to run."""
    if isinstance(fault.target, RamBit):
        return fault.target.offset
    return code_address(machine.modules[0].registers)


def _detected_at(incident: Incident) -> int:
    """The sync point that showed it: where the modules stood, those who came to stand somewhere."""
    positions = [report.position for report in incident.divergence.reports if report is not None]
    return max(positions, default=incident.divergence.verified)


def _words(ending: Ending | None) -> str:
    if ending is None:
        return "no end"
    return ending.outcome if ending.exit_code is None else f"{ending.outcome} {ending.exit_code}"
