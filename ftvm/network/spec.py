"""How users write a NIC: ``tap:NAME,tap:NAME,mac=...,mode=broadcast``."""

import msgspec

from ftvm.errors import UsageError
from ftvm.network.frame import parse_mac
from ftvm.network.team import TeamMode

SYNTAX = "LEG[,LEG...][,mac=MAC][,mode=active-backup|broadcast][,mtu=BYTES]"
LEG_KINDS = ("tap:NAME", "tap:NAMESPACE/NAME", "stream:PATH", "loopback", "loopback:WIRE")
MAX_LEGS = 4
DEFAULT_MTU, MIN_MTU, MAX_MTU = 1500, 68, 65535
_OWN_MAC = bytes.fromhex("02 66 74 76 6d")
"""Locally administered: no maker has it. Every machine of ftvm has the same ones, so that runs can be repeated."""


class LegSpec(msgspec.Struct, frozen=True):
    """``kind`` is tap, stream or loopback; ``where`` the interface, path or wire, "" for a plain loopback."""

    kind: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.where}" if self.where else self.kind


class NicSpec(msgspec.Struct, frozen=True):
    """``mac`` None: the machine gives it one, by its number (``default_mac``)."""

    legs: tuple[LegSpec, ...]
    mac: bytes | None = None
    mode: TeamMode = TeamMode.ACTIVE_BACKUP
    mtu: int = DEFAULT_MTU

    @property
    def repeatable(self) -> bool:
        """What it receives follows from what the machine sends."""
        return all(leg.kind == "loopback" for leg in self.legs)


def default_mac(nic: int) -> bytes:
    return _OWN_MAC + bytes([nic])


def parse_nic(text: str) -> NicSpec:
    """Raises UsageError."""
    reader = _Reader(text)
    for part in text.split(","):
        reader.take(part)
    return reader.nic()


class _Reader(msgspec.Struct):
    text: str
    legs: list[LegSpec] = msgspec.field(default_factory=list)
    settings: dict[str, str] = msgspec.field(default_factory=dict)

    def take(self, part: str) -> None:
        name, equals, value = part.partition("=")
        if equals and name in ("mac", "mode", "mtu"):
            if name in self.settings:
                raise UsageError(f"--nic {self.text}: {name} is given twice", f"write it as {SYNTAX}")
            self.settings[name] = value
        else:
            self.legs.append(self._leg(part))

    def _leg(self, part: str) -> LegSpec:
        kind, colon, where = part.partition(":")
        wants = {"tap": True, "stream": True, "loopback": bool(colon)}.get(kind)
        if wants is None or wants != bool(where) or "\0" in where:
            raise UsageError(f"--nic {self.text}: {part!r} is not a leg", f"legs are {', '.join(LEG_KINDS)}")
        return LegSpec(kind, where)

    def nic(self) -> NicSpec:
        if not 1 <= len(self.legs) <= MAX_LEGS:
            raise UsageError(f"--nic {self.text}: {len(self.legs)} legs", f"give 1 to {MAX_LEGS}")
        mac = self.settings.get("mac")
        mode = self.settings.get("mode", TeamMode.ACTIVE_BACKUP)
        if mode not in list(TeamMode):
            raise UsageError(f"--nic {self.text}: there is no mode {mode!r}", f"give {' or '.join(TeamMode)}")
        mtu = self.settings.get("mtu", str(DEFAULT_MTU))
        if not (mtu.isascii() and mtu.isdecimal() and MIN_MTU <= int(mtu[:6]) <= MAX_MTU):
            raise UsageError(f"--nic {self.text}: an MTU of {mtu!r} bytes", f"give {MIN_MTU} to {MAX_MTU}")
        return NicSpec(tuple(self.legs), None if mac is None else parse_mac(mac), TeamMode(mode), int(mtu))
