"""The lines that go over a control socket, as values. docs/control-protocol.md is the same for people."""

from typing import Annotated, Any

import msgspec

PROTOCOL = 1
REQUEST_BYTES = 65536
"""The longest request, its newline included."""

Id = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)] | Annotated[str, msgspec.Meta(max_length=64)]
"""Chosen by the client; each answer repeats that of its request."""


class Hello(msgspec.Struct, frozen=True):
    """The first line, from the machine. ``protocol`` grows when old clients cannot understand what follows."""

    ftvm: str
    protocol: int
    name: str
    pid: int


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From the client; ``arguments`` are an object that the verb understands."""

    id: Id
    verb: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class RequestId(msgspec.Struct, frozen=True):
    """What can be saved of a request that is none."""

    id: Id | None = None


class Error(msgspec.Struct, frozen=True):
    """``code`` is for programs, ``message`` and ``hint`` are one line each for people."""

    code: str
    message: str
    hint: str | None = None


class Line(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """From the machine, about the request ``id`` (null when the request was unreadable).

    The last line about a request has ``ok``: true with ``result``, or false with ``error``. Lines with ``progress`` or
    ``event`` may come before it.
    """

    id: Id | None
    ok: bool | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: Error | msgspec.UnsetType = msgspec.UNSET
    progress: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    event: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def encode(value: object) -> bytes:
    """One line."""
    return msgspec.json.encode(value, enc_hook=str) + b"\n"


def raw(value: Any) -> msgspec.Raw:
    """``value`` as a part of a Line."""
    return msgspec.Raw(msgspec.json.encode(value, enc_hook=str))
