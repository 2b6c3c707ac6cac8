"""What a campaign is to do, as a TOML file: docs/campaign-plans.md describes every field."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from ftvm.errors import FtvmError, UnusableFile, UsageError
from ftvm.network.spec import parse_nic
from ftvm.units import parse_blocks, parse_size

PLAN_VERSION = 1
MAX_EXPERIMENTS = 100_000_000
MAX_MILESTONES = 1000

Column = Literal["duplex", "simplex"]
"""Two modules in lockstep; or the module that has the fault, alone, as if there were no other."""

Text = Annotated[str, Meta(min_length=1)]
Weight = Annotated[float, Meta(gt=0)]
T = TypeVar("T")


class GuestPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A guest that faults are injected into, from its ``start`` on: a position, or where the text ``start_text`` had
    come. ``blocks`` ends the experiments that many blocks later, if the guest does not end before.

    ``image`` is a name that ``ftvm guests list`` shows, or a path, which counts from the plan's folder; so do
    ``initrd`` and ``symbols``, an ELF or map file. ``disks`` are sizes of empty mirrors of two legs, made anew for each
    machine; ``nics`` as for ``ftvm run``, without an outside. ``milestones``: how often an experiment is compared with
    the golden run.
    """

    image: Text
    initrd: Text | None = None
    append: str = ""
    memory: str = "64M"
    input: str | None = None
    input_after: Text | None = None
    start: int | str = 0
    start_text: Text | None = None
    stop_on: Text | None = None
    disks: list[str] = []
    nics: list[Text] = []
    blocks: int | str | None = None
    milestones: Annotated[int, Meta(ge=1, le=MAX_MILESTONES)] = 16
    weight: Weight | None = None
    symbols: Text | None = None

    @property
    def outside(self) -> bool:
        """Has devices with an outside, which cannot be put back: each experiment is a machine's first."""
        return bool(self.disks or self.nics)

    @property
    def memory_bytes(self) -> int:
        return parse_size(self.memory)

    @property
    def start_position(self) -> int:
        return _blocks(self.start)

    @property
    def limit_blocks(self) -> int | None:
        return None if self.blocks is None else _blocks(self.blocks)


class FaultPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where faults strike, all bits and positions alike: ``targets`` as in docs/campaign-plans.md.

    ``kind`` and ``lasting`` (``for``) as in docs/fault-plans.md, on ``width`` neighbouring bits; ``settings``
    are those that faults in modules as a whole and in legs have. ``common_mode``: the
    same in all modules. ``weight`` makes this group as likely as its weight says, whatever its size.
    """

    targets: Annotated[list[Text], Meta(min_length=1)]
    kind: Text = "flip"
    width: Annotated[int, Meta(ge=1, le=64)] = 1
    lasting: int | str | None = None
    settings: dict[str, int | float | str] = {}
    common_mode: bool = False
    weight: Weight | None = None


class CampaignPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole plan. Either ``experiments`` or ``margin`` says how many there are; margin and confidence are shares
    (0.01) or percentages ("1%")."""

    version: int
    name: Text
    guest: Annotated[list[GuestPlan], Meta(min_length=1)]
    fault: Annotated[list[FaultPlan], Meta(min_length=1)]
    seed: Annotated[int, Meta(ge=0)] = 0
    experiments: Annotated[int, Meta(ge=1, le=MAX_EXPERIMENTS)] | None = None
    margin: float | str | None = None
    confidence: float | str = 0.95
    epoch: int | str = 20_000
    columns: Annotated[list[Column], Meta(min_length=1)] = msgspec.field(default_factory=lambda: ["duplex", "simplex"])
    prune: bool = False

    @property
    def epoch_blocks(self) -> int:
        return _blocks(self.epoch)


def load_plan(path: Path) -> CampaignPlan:
    """Read and check a plan. Raises UnusableFile, which names the line or the field."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnusableFile(
            f"the plan {path} cannot be read: {error.strerror}", "give the path of a TOML file"
        ) from None
    except UnicodeDecodeError as error:
        raise UnusableFile(f"the plan {path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    return _anchored(parse_plan(text, str(path)), path.parent)


def parse_plan(text: str, where: str) -> CampaignPlan:
    """The plan in ``text``; ``where`` is named in errors."""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UnusableFile(f"{where}: not TOML: {error}", "docs/campaign-plans.md has examples") from None
    if table.get("version") != PLAN_VERSION:
        raise UnusableFile(
            f"{where}: version {table.get('version', 'missing')} of the format of plans",
            f"this ftvm reads version = {PLAN_VERSION}",
        )
    plan = decode_plan(table, where)
    try:
        _check(plan)
    except FtvmError as error:
        raise UnusableFile(f"{where}: {error.message}", error.hint) from None
    return plan


def decode_plan(value: Any, where: str) -> CampaignPlan:
    """A plan from what TOML or JSON made of it."""
    try:
        return msgspec.convert(value, CampaignPlan)
    except msgspec.ValidationError as error:
        raise UnusableFile(f"{where}: {error}", "docs/campaign-plans.md describes every field") from None


def share(value: float | str) -> float:
    """0.01 from 0.01 or "1%". Raises UsageError outside 0 to 1."""
    try:
        number = (
            float(value.removesuffix("%")) / 100 if isinstance(value, str) and value.endswith("%") else float(value)
        )
    except ValueError:
        raise UsageError(f"{value!r} is not a share", "write it as 0.01 or 1%") from None
    if not 0 < number < 1:
        raise UsageError(f"a share of {value}", "give more than 0 and less than 1 (100%)")
    return number


def _check(plan: CampaignPlan) -> None:
    if (plan.experiments is None) == (plan.margin is None):
        raise UsageError("neither or both of experiments and margin", "give one of them: it decides the sample's size")
    if plan.margin is not None:
        share(plan.margin)
    share(plan.confidence)
    if len(set(plan.columns)) != len(plan.columns):
        raise UsageError("columns name one twice", 'write columns = ["duplex", "simplex"], or one of them')
    _field("epoch", lambda: plan.epoch_blocks)
    for index, guest in enumerate(plan.guest):
        here = f"guest[{index}]"
        _field(f"{here}.memory", lambda guest=guest: guest.memory_bytes)
        for size in guest.disks:
            _field(f"{here}.disks", lambda size=size: parse_size(size))
        for nic in guest.nics:
            _check_nic(f"{here}.nics", nic)
        _field(f"{here}.start", lambda guest=guest: guest.start_position, least=0)
        if guest.blocks is not None:
            _field(f"{here}.blocks", lambda guest=guest: guest.limit_blocks)
        if guest.start and guest.start_text:
            raise UsageError(f"{here} has both start and start_text", "give one of them")
        if guest.input_after and guest.input is None:
            raise UsageError(f"{here} has input_after but no input", "give the input too")


def _check_nic(where: str, text: str) -> None:
    try:
        nic = parse_nic(text)
    except FtvmError as error:
        raise UsageError(f"{where}: {error.message}", error.hint) from None
    if not nic.repeatable:
        raise UsageError(f"{where}: {text} has an outside", "campaigns have loopback and loopback:WIRE")


def _field(where: str, value: Any, least: int = 1) -> None:
    try:
        number = value()
    except FtvmError as error:
        raise UsageError(f"{where}: {error.message}", error.hint) from None
    if number < least:
        raise UsageError(f"{where} is {number}", f"give at least {least}")


def _blocks(value: int | str) -> int:
    return value if isinstance(value, int) else parse_blocks(value)


def _anchored(plan: CampaignPlan, folder: Path) -> CampaignPlan:
    """Relative paths count from the plan's folder; a name without a slash that is no file there is a guest's name."""

    def absolute(name: str | None) -> str | None:
        if name is None or ("/" not in name and not (folder / name).exists()):
            return name
        return str((folder / name).resolve())

    guests = [
        msgspec.structs.replace(
            guest, image=absolute(guest.image), initrd=absolute(guest.initrd), symbols=absolute(guest.symbols)
        )
        for guest in plan.guest
    ]
    return msgspec.structs.replace(plan, guest=guests)
