"""Seeded flips in the workload kernel, localised while the machine runs; and the same by brute force. Used by
localise.py and tests/divergence/test_localise.py.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ftvm
from ftvm.debug.divergence.pair import Pair, Place
from ftvm.debug.divergence.search import Finding, localise
from ftvm.machine import Machine, MachineConfig
from ftvm.module.fault import AtPosition, Fault, RamBit, RegisterBit, Target
from ftvm.monitor.compare import Difference
from ftvm.monitor.recovery import Incident
from ftvm.units import MIB

WORKLOAD = Path(ftvm.__file__).parent / "firmware" / "kernels" / "workload.elf"
GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)), "rflags")
FLAGS = (0, 2, 4, 6, 7, 11)
DATA = range(0x104000, 0x1E2000)
"""What the kernel works on."""
BRUTE_STEPS = 3000
NEAR_BLOCKS = 300


@dataclass(frozen=True)
class Localised:
    """A flip, what was found, and what brute force found: the place of the first wrong instruction; None if it is not
    near, so that nobody looked."""

    fault: Fault
    finding: Finding
    brute: Place | None = None


def flip(seed: int) -> Fault:
    """A bit of a general register, of the flags or of the data, somewhere in the kernel's work."""
    rng = random.Random(seed)
    target: Target
    if rng.random() < 0.3:
        target = RamBit(rng.choice(DATA), rng.randrange(8))
    else:
        name = rng.choice(GENERAL)
        target = RegisterBit(name, rng.choice(FLAGS) if name == "rflags" else rng.randrange(64))
    return Fault(1, AtPosition(rng.randrange(800_000, 2_800_000)), target)


def localised(fault: Fault, brute: bool = False) -> Localised | None:
    """Run the kernel with it. None: the modules never differed in a way that both could report."""
    found: list[Localised] = []

    def look(incident: Incident) -> None:
        divergence = incident.divergence
        if found or incident.module != 1 or incident.epoch is None or None in divergence.reports:
            return
        end = max(report.position for report in divergence.reports if report is not None)
        inputs = [*incident.epoch.inputs]
        with Pair(machine.verified, machine.board, 1, inputs) as pair:
            finding = localise(pair, divergence.verified, end, divergence.reports[1])
            place = by_brute_force(pair, finding) if brute and _is_near(finding) else None
        found.append(Localised(fault, finding, place))
        machine.request_stop()

    machine = Machine(MachineConfig(WORKLOAD, memory_bytes=32 * MIB, timeout_s=300.0))
    machine.follow_incidents(look)
    machine.inject(fault)
    machine.run()
    return found[0] if found else None


def _is_near(finding: Finding) -> bool:
    if finding.wrong is None or finding.origin is None:
        return False
    return finding.wrong.before.place.position - finding.origin.place.position < NEAR_BLOCKS


def by_brute_force(pair: Pair, finding: Finding) -> Place | None:
    """Step both modules from where they first differ, and compare all that they are after each instruction."""
    assert finding.origin is not None
    reports = pair.goto(finding.origin.place)
    suspects = set(pair.different_pages())
    known = _atoms(pair.differences(reports, sorted(suspects)))
    for _ in range(BRUTE_STEPS):
        assert reports[0] is not None
        here = Place(reports[0].position, reports[0].instruction)
        reports = pair.step(1)
        now = _atoms(pair.differences(reports, sorted(suspects | pair.touched)))
        if now - known:
            return here
        known = now
    return None


def _atoms(differences: Sequence[Difference]) -> set[object]:
    """Bytes of memory, bits of the flags, and whole registers, as pairs."""
    atoms: set[object] = set()
    for difference in differences:
        sound, faulty = difference.values
        if isinstance(sound, bytes) and isinstance(faulty, bytes) and difference.kind == "memory":
            start = int(difference.where.removeprefix("ram "), 16)
            atoms |= {(start + at, a, b) for at, (a, b) in enumerate(zip(sound, faulty, strict=True)) if a != b}
        elif difference.where == "rflags" and isinstance(sound, int) and isinstance(faulty, int):
            atoms |= {("rflags", bit, sound >> bit & 1) for bit in range(64) if (sound ^ faulty) >> bit & 1}
        else:
            atoms.add((difference.kind, difference.where, difference.values))
    return atoms
