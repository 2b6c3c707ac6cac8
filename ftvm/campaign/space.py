"""The space of faults that a plan speaks of, and how experiments are drawn from it: uniform over position x bit.

An experiment's number and the plan's seed decide it, so that a larger sample has the smaller one in it.
"""

import bisect
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftvm.campaign.experiment import Experiment
from ftvm.campaign.plan import CampaignPlan, FaultPlan, share
from ftvm.campaign.statistics import sample_size
from ftvm.campaign.targets import Target, targets
from ftvm.campaign.work import Golden
from ftvm.errors import FtvmError, UsageError
from ftvm.faults.notation import Guest, parse_fault
from ftvm.module.board import BoardConfig, unplugged
from ftvm.module.fault import Fault
from ftvm.module.fault_check import check


@dataclass(frozen=True)
class Stratum:
    """One group of targets in one guest; ``ends`` are where each target's bits end when all are counted through."""

    guest: int
    group: int
    golden: Golden
    targets: Sequence[Target]
    ends: Sequence[int]
    weight: float

    @property
    def faults(self) -> int:
        """How many there are: bits times positions."""
        return self.ends[-1] * (self.golden.end - self.golden.start)


class Space:
    """All faults of a plan, over the guests whose undisturbed runs are ``golden``; ``images`` are their files."""

    def __init__(self, plan: CampaignPlan, golden: Sequence[Golden], images: Sequence[Path]) -> None:
        self._plan = plan
        self.strata: list[Stratum] = []
        for guest, (run, image) in enumerate(zip(golden, images, strict=True)):
            if run.end <= run.start:
                raise UsageError(f"the guest {plan.guest[guest].image} ends where its experiments start")
            for group, fault in enumerate(plan.fault):
                found = targets(fault.targets, run.ram_bytes, image)
                _check(fault, found, run.ram_bytes)
                ends = list(itertools.accumulate(target.bits for target in found))
                size = ends[-1] * (run.end - run.start)
                # Uniform over all faults, unless the plan says how likely a guest or a group is.
                weight = (plan.guest[guest].weight or run.end - run.start) * (fault.weight or ends[-1])
                self.strata.append(Stratum(guest, group, run, found, ends, weight if size else 0.0))
        self._ends = list(itertools.accumulate(stratum.weight for stratum in self.strata))

    @property
    def faults(self) -> int:
        """How many different faults there are."""
        return sum(stratum.faults for stratum in self.strata)

    def sample_size(self) -> int:
        """The number of experiments that the plan asks for, outright or by its margin."""
        plan = self._plan
        if plan.experiments is not None:
            return plan.experiments
        assert plan.margin is not None
        return sample_size(self.faults, share(plan.margin), share(plan.confidence))

    def draw(self) -> Iterator[Experiment]:
        """Every experiment of the plan."""
        return (self.experiment(number) for number in range(self.sample_size()))

    def experiment(self, number: int) -> Experiment:
        """The experiment of that number."""
        dice = random.Random(f"{self._plan.seed}/{number}")
        place = bisect.bisect_right(self._ends, dice.random() * self._ends[-1])
        stratum = self.strata[min(place, len(self.strata) - 1)]
        position = dice.randrange(stratum.golden.start, stratum.golden.end)
        index = dice.randrange(stratum.ends[-1])
        which = bisect.bisect_right(stratum.ends, index)
        target = stratum.targets[which]
        plan = self._plan.fault[stratum.group]
        where, bit = target.place(index - (stratum.ends[which - 1] if which else 0), plan.width)
        module = dice.randrange(2)
        return Experiment(
            id=number,
            guest=stratum.guest,
            group=stratum.group,
            position=position,
            module=module,
            target=target.name,
            bit=bit,
            kind=plan.kind,
            fault=_notation(plan, where, module, position, dice.randrange(1 << 32)),
        )


def fault_of(experiment: Experiment, ram_bytes: int) -> Fault:
    """What the experiment's notation means. Raises UsageError."""
    return parse_fault(experiment.fault, Guest(ram_bytes))


def _notation(plan: FaultPlan, where: str, module: int, position: int, seed: int) -> str:
    """A fault as ftvm/faults/notation.py reads it, and as ``ftvm run --fault`` takes it."""
    words = {
        "module": "all" if plan.common_mode else str(module),
        "target": where,
        "kind": plan.kind,
        "at": str(position),
    }
    if where.startswith(("phys:", "mem:", "pte:")):
        # Found at the next sync point, and code that was translated from there is dropped. Otherwise what happens
        # would depend on what was translated before.
        words["logged"] = "true"
    if plan.kind == "random":
        words["seed"] = str(seed)
    words |= {name: str(value) for name, value in plan.settings.items()}
    if where.startswith(("disk", "nic")):
        del words["module"]
    if plan.lasting is not None or plan.kind.startswith("stuck"):
        words["for"] = str(plan.lasting or "always")
    return ",".join(f"{name}={value}" for name, value in words.items())


def _check(plan: FaultPlan, found: Sequence[Target], ram_bytes: int) -> None:
    """One fault of each target, so that what cannot be shows before anything is run. Raises UsageError."""
    chips = unplugged(BoardConfig(ram_bytes=ram_bytes)).chips
    for target in found:
        text = _notation(plan, target.place(0, plan.width)[0], 0, 0, 0)
        try:
            check(parse_fault(text, Guest(ram_bytes)), ram_bytes, chips)
        except FtvmError as error:
            raise UsageError(f"target {target.name}, kind {plan.kind}: {error.message}", error.hint) from None
