"""What each packet of gdb means, and what is answered."""

import re
from collections.abc import Callable
from enum import Enum, auto

from ftvm.debug.gdb.packets import MAX_PACKET_BYTES
from ftvm.debug.gdb.registers import target_description
from ftvm.debug.gdb.target import Stopped, Target
from ftvm.errors import FtvmError

MAX_MEMORY_BYTES = MAX_PACKET_BYTES // 2 - 64
_SUPPORTED = (
    f"PacketSize={MAX_PACKET_BYTES - 1:x};QStartNoAckMode+;qXfer:features:read+;vContSupported+;swbreak+;hwbreak+;"
    "ReverseContinue+;ReverseStep+"
)
_TELLING = ("c", "C", "s", "S", "b", "vCont;", "qRcmd,")
"""Packets during which gdb listens to text."""
_ERROR_USAGE, _ERROR_MEMORY, _ERROR_FAILED = b"E16", b"E0e", b"E01"


class After(Enum):
    """What the connection does after an answer."""

    GO_ON = auto()
    DETACH = auto()
    KILL = auto()


class Stub:
    """Answers packets for a ``target``; ``tell`` sends text to gdb's user before the answer."""

    def __init__(self, target: Target, tell: Callable[[str], None]) -> None:
        self._target = target
        self._tell = tell
        self.acknowledges = True
        """Until gdb says that it need not be."""

    def answer(self, body: bytes) -> tuple[bytes | None, After]:
        """The answer, None for none. Never raises for what gdb says."""
        text = body.decode("latin-1")
        try:
            return self._answer(text, body)
        except FtvmError as error:
            if text.startswith(_TELLING):
                self._tell(f"ftvm: {error.message}\n")
            return _ERROR_FAILED, After.GO_ON
        except (ValueError, OverflowError):
            return _ERROR_USAGE, After.GO_ON

    def _answer(self, text: str, body: bytes) -> tuple[bytes | None, After]:
        match text[:1]:
            case "D":
                return b"OK", After.DETACH
            case "k":
                return None, After.KILL
            case "v" if text.startswith("vKill"):
                return b"OK", After.KILL
            case _:
                return self._plain(text, body), After.GO_ON

    def _plain(self, text: str, body: bytes) -> bytes:
        target = self._target
        match text[:1]:
            case "?":
                return _stop_reply(Stopped())
            case "g":
                return target.registers().hex().encode()
            case "G":
                target.write_registers(bytes.fromhex(text[1:]))
                return b"OK"
            case "p":
                return target.register(_number(text[1:])).hex().encode()
            case "P":
                number, _, data = text[1:].partition("=")
                target.write_register(_number(number), bytes.fromhex(data))
                return b"OK"
            case "m":
                return self._read(text[1:])
            case "M" | "X":
                return self._write(text[0], text[1:], body)
            case "c" | "C" | "s" | "S" | "b":
                return self._go(text)
            case "Z" | "z":
                return self._point(text)
            case "H" | "T" | "!":
                return b"OK" if text[0] != "!" else b""
            case "q" | "Q" | "v":
                return self._query(text)
            case _:
                return b""

    def _read(self, text: str) -> bytes:
        address, size = _pair(text)
        try:
            return self._target.read_memory(address, min(size, MAX_MEMORY_BYTES)).hex().encode()
        except FtvmError:
            return _ERROR_MEMORY

    def _write(self, kind: str, text: str, body: bytes) -> bytes:
        where, _, content = text.partition(":")
        address, size = _pair(where)
        data = body[1 + len(where) + 1 :] if kind == "X" else bytes.fromhex(content)
        if len(data) != size:
            return _ERROR_USAGE
        if data:
            self._target.write_memory(address, data)
        return b"OK"

    def _go(self, text: str) -> bytes:
        """``c`` and ``s`` with an address or a signal, ``bc`` and ``bs``: neither of the former is anything here."""
        ways = {"c": self._target.go, "s": self._target.step, "bc": self._target.go_back, "bs": self._target.step_back}
        way = ways.get(text if text[:1] == "b" else text[:1].lower())
        return b"" if way is None else self._stopped(way())

    def _stopped(self, stopped: Stopped) -> bytes:
        if stopped.told:
            self._tell(stopped.told)
        return _stop_reply(stopped)

    def _point(self, text: str) -> bytes:
        kind, _, rest = text[1:].partition(",")
        address, size = _pair(rest.partition(";")[0])
        done = (self._target.add_point if text[0] == "Z" else self._target.remove_point)(kind, address, size)
        return b"OK" if done else b""

    def _query(self, text: str) -> bytes:
        name, _, rest = text.partition(":")
        match name:
            case "qSupported":
                return _SUPPORTED.encode()
            case "QStartNoAckMode":
                self.acknowledges = False
                return b"OK"
            case "qXfer":
                return _part(rest)
            case "vCont?":
                return b"vCont;c;C;s;S"
            case "qC":
                return b"QC1"
            case "qfThreadInfo":
                return b"m1"
            case "qsThreadInfo":
                return b"l"
            case "qAttached":
                return b"1"
            case "qSymbol":
                return b"OK"
            case _ if name.startswith("vCont;"):
                return self._go(name[6:7])
            case _ if name.startswith("qRcmd,"):
                said = self._target.command(bytes.fromhex(text[6:]).decode(errors="replace"))
                if said:
                    self._tell(said)
                return b"OK"
            case _ if name.startswith("qThreadExtraInfo"):
                return b"the modules in lockstep".hex().encode()
            case _:
                return b""


def _stop_reply(stopped: Stopped) -> bytes:
    return f"T05{stopped.reason}thread:1;".encode()


def _number(text: str) -> int:
    """Hexadecimal digits and nothing else. Raises ValueError."""
    if not re.fullmatch(r"[0-9a-fA-F]{1,16}", text):
        raise ValueError(text)
    return int(text, 16)


def _pair(text: str) -> tuple[int, int]:
    first, comma, second = text.partition(",")
    if not comma:
        raise ValueError(text)
    return _number(first), _number(second)


def _part(text: str) -> bytes:
    """``features:read:target.xml:OFFSET,SIZE``."""
    match text.split(":"):
        case ["features", "read", "target.xml", where]:
            offset, size = _pair(where)
            document = target_description()
            part = document[offset : offset + min(size, MAX_MEMORY_BYTES)]
            return (b"m" if offset + len(part) < len(document) else b"l") + part
        case ["features", "read", _, _]:
            return b"E00"
        case _:
            return b""
