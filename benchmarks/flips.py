"""Experiments with one flipped bit each, in the project's workload kernel: what a seed stands for, and what came of it.

Used by faults.py, and with fewer seeds by tests/divergence/test_random_faults.py.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile

import ftvm
from ftvm.campaign.targets import register_groups
from ftvm.machine import Machine, MachineConfig, RunResult
from ftvm.module.fault import RamBit, RegisterBit, Target
from ftvm.module.registers import REGISTERS
from ftvm.units import MIB, PAGE_BYTES

KERNEL = Path(ftvm.__file__).parent / "firmware" / "kernels" / "workload.elf"
MEMORY_BYTES = 64 * MIB
EPOCHS = (20_000, 100_000, 1_000_000)
TIMEOUT_S = 120.0

MASKED = "masked"
"""No module ever differed at a sync point."""

Range = tuple[int, int]
"""RAM from the first offset up to the second."""


@dataclass(frozen=True)
class Golden:
    """The undisturbed run."""

    result: RunResult
    console: bytes


@dataclass(frozen=True)
class Experiment:
    """Flip ``target``, which is one of ``group``, in ``module`` at ``position``."""

    seed: int
    group: str
    module: int
    position: int
    target: Target
    epoch_blocks: int


@dataclass(frozen=True)
class Outcome:
    """``wrong`` says what the outside could tell from the golden run, None when nothing (so it must be).

    ``verdict`` is that of the first incident, or MASKED; ``charged`` are the modules that incidents were charged to.
    ``recovered_in_ms`` is the sum over all incidents.
    """

    experiment: Experiment
    wrong: str | None
    verdict: str
    incidents: int
    charged: tuple[int, ...]
    recovered_in_ms: float
    longest_pause_ms: float
    wall_s: float


def golden() -> Golden:
    shown = bytearray()
    machine = Machine(_config(EPOCHS[-1]), lambda channel, data: shown.extend(data))
    return Golden(machine.run(), bytes(shown))


def sample(seed: int, blocks: int) -> Experiment:
    """The experiment of a seed, for a kernel that runs for ``blocks``: every group of targets is equally likely."""
    dice = random.Random(seed)
    group = dice.choice([*_REGISTER_GROUPS, *_RAM_GROUPS])
    target: Target
    if group in _REGISTER_GROUPS:
        name = dice.choice(_REGISTER_GROUPS[group])
        target = RegisterBit(name, dice.randrange(REGISTERS[name].size * 8))
    else:
        first, end = dice.choice(_RAM_GROUPS[group])
        target = RamBit(dice.randrange(first, end), dice.randrange(8), logged=dice.random() < 0.5)
    return Experiment(seed, group, dice.randrange(2), dice.randrange(1, blocks), target, dice.choice(EPOCHS))


def conduct(experiment: Experiment, undisturbed: Golden) -> Outcome:
    """Run the machine with that fault. Raises whatever the machine raises: it must not."""
    shown = bytearray()
    machine = Machine(_config(experiment.epoch_blocks), lambda channel, data: shown.extend(data))
    machine.inject(experiment.module, experiment.position, experiment.target)
    result = machine.run()
    return Outcome(
        experiment,
        _wrong(result, bytes(shown), undisturbed),
        result.divergences[0].verdict if result.divergences else MASKED,
        len(result.divergences),
        tuple(sorted({incident.module for incident in result.divergences if incident.module is not None})),
        round(sum(incident.recovered_in_ms or 0.0 for incident in result.divergences), 3),
        round(result.longest_pause_ms, 3),
        round(result.wall_s, 3),
    )


def _config(epoch_blocks: int) -> MachineConfig:
    return MachineConfig(KERNEL, memory_bytes=MEMORY_BYTES, epoch_blocks=epoch_blocks, timeout_s=TIMEOUT_S)


def _wrong(result: RunResult, console: bytes, undisturbed: Golden) -> str | None:
    expected = undisturbed.result
    if (result.outcome, result.exit_code) != (expected.outcome, expected.exit_code):
        return f"ended with {result.outcome} {result.exit_code}"
    if console != undisturbed.console:
        return f"wrote {console!r}"
    if result.state_digest != expected.state_digest:
        return f"final state {result.state_digest}"
    return None


def _ram_groups() -> Mapping[str, Sequence[Range]]:
    """Places that matter, each beside a wider range that it lies in. The kernel is loaded where it is linked."""
    with KERNEL.open("rb") as file:
        elf = ELFFile(file)
        sections = {
            section.name: (section["sh_addr"], section["sh_addr"] + section["sh_size"])
            for section in elf.iter_sections()
        }
        symbols = {symbol.name: int(symbol["st_value"]) for symbol in elf.get_section_by_name(".symtab").iter_symbols()}
    top, level4, level3, level2 = (symbols[name] for name in ("stack_top", "level4", "level3", "level2"))
    return {
        "code": [sections[".text"]],
        "data": [sections[".rodata"], sections[".data"], sections[".bss"]],
        "stack": [(top - 256, top), (top - PAGE_BYTES, top)],
        "page tables": [
            (level4, level4 + 8),
            (level3, level3 + 8),
            (level2, level2 + 16),
            (level4, level2 + PAGE_BYTES),
        ],
        "any RAM": [(0, MEMORY_BYTES)],
    }


_REGISTER_GROUPS = register_groups()
_RAM_GROUPS = _ram_groups()
