"""A divergence report as a value, and as a file: docs/divergence-report.md.

Numbers that may need 64 bits are hexadecimal text, so that every reader of JSON gets them whole.
"""

from pathlib import Path

import msgspec

from ftvm.errors import HostError, UnusableFile

VERSION = 1
MAX_FILE_BYTES = 256 << 20


class At(msgspec.Struct, frozen=True):
    """Before instruction ``instruction`` of the block that is entered at ``position``."""

    position: int
    instruction: int = 0

    def __str__(self) -> str:
        return f"position {self.position:,}" + (f" + {self.instruction}" if self.instruction else "")


class Item(msgspec.Struct, frozen=True):
    """One thing in which the modules differ. ``kind`` and ``where`` as in ftvm/monitor/compare.py; ``bits`` those that
    differ, if they are few."""

    kind: str
    where: str
    sound: str
    faulty: str
    bits: list[int] = []
    symbol: str = ""


class State(msgspec.Struct, frozen=True):
    """Both modules at one place: their registers, by name. A module that gave no report has none."""

    what: str
    at: At
    sound: dict[str, str]
    faulty: dict[str, str]
    items: list[Item]
    hidden: int = 0
    """Items that are left out."""


class Line(msgspec.Struct, frozen=True):
    """One instruction of a listing; ``wrong``: the one that went wrong first."""

    address: str
    code: str
    text: str
    symbol: str = ""
    wrong: bool = False


class Dump(msgspec.Struct, frozen=True):
    """Bytes of RAM around a place in which the modules differ, as hexadecimal text."""

    offset: int
    sound: str
    faulty: str


class After(msgspec.Struct, frozen=True):
    """What differs ``instructions`` after the wrong one. ``registers`` and ``memory``, runs of bytes, count all."""

    instructions: int
    sound: At
    faulty: At | None
    registers: int
    memory: int
    items: list[Item]


class WrongOutput(msgspec.Struct, frozen=True):
    """What would have left the machine if nobody had compared, between the positions ``after`` and ``position``."""

    after: int
    position: int
    sound: str
    faulty: str


class Report(msgspec.Struct, frozen=True):
    """One incident. ``verified`` is the position of the last agreement, ``found`` where the comparison was made.

    ``conclusion`` says in one sentence what came out; the fields after it are empty as far as nothing did.
    """

    module: int | None
    verdict: str
    kind: str
    where: str
    verified: int
    found: int
    faults: list[str]
    conclusion: str
    reproduced: bool = False
    as_before: bool = False
    origin: State | None = None
    before: State | None = None
    after: State | None = None
    listing: list[Line] = []
    dumps: list[Dump] = []
    aftermath: list[After] = []
    output: WrongOutput | None = None
    looked_until: int = 0
    comparison: list[Item] = []
    """What the comparison in the machine found; of more than two modules, the first two that differ."""


class Reports(msgspec.Struct, frozen=True):
    """What the file holds. ``left_out`` incidents were not looked at: there were too many."""

    version: int
    guest: str
    build: str
    reports: list[Report]
    left_out: int = 0


def save(path: Path, reports: Reports) -> None:
    """Raises HostError."""
    try:
        path.write_bytes(msgspec.json.encode(reports) + b"\n")
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}", "give a path that can be written") from None


def load(path: Path) -> Reports:
    """Raises UnusableFile."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UnusableFile(f"the report {path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise UnusableFile(f"{path} is larger than any report")
    hint = "ftvm run --divergence-report FILE writes one"
    try:
        version = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("version")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnusableFile(f"{path} is no divergence report: {error}", hint) from None
    if version is None or bytes(version) != str(VERSION).encode():
        found = "none" if version is None else bytes(version)[:20].decode(errors="replace")
        raise UnusableFile(f"{path} has version {found} of the format, not {VERSION}", hint)
    try:
        return msgspec.json.decode(data, type=Reports)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnusableFile(f"{path} is damaged: {error}", hint) from None
