"""The states of a board's parts as bytes: one msgpack map, equal for equal states.

A sync point asks for it, and few parts change from one to the next: what cannot have changed is not encoded again.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

_encode = msgspec.msgpack.Encoder().encode
_MAP_16 = 0xDE  # a map of up to 65535 entries, in msgpack
_LARGEST_FIXED_MAP = 15


class StateMap:
    """Names and states, in the order in which they came first."""

    def __init__(self) -> None:
        self._entries: dict[str, bytes] = {}

    def put(self, states: Iterable[tuple[str, Any]]) -> None:
        """They are these now."""
        for name, state in states:
            self._entries[name] = _encode(name) + _encode(state)

    def encode(self) -> bytes:
        return _head(len(self._entries)) + b"".join(self._entries.values())

    def cut(self, first: str, second: str) -> tuple[bytes, bytes, bytes, bytes]:
        """The same, as what is before the state of ``first``, what is from there to that of ``second``, which comes
        later, that itself, and what is after it."""
        pieces = [_head(len(self._entries))]
        for name, entry in self._entries.items():
            if name in (first, second):
                key = len(_encode(name))
                pieces[-1] += entry[:key]
                pieces += [entry[key:], b""]
            else:
                pieces[-1] += entry
        before, _, between, state, after = pieces
        return before, between, state, after

    def encode_with(self, name: str, state: Any) -> bytes:
        """With one more, at the end."""
        body = b"".join(self._entries.values())
        return _head(len(self._entries) + 1) + body + _encode(name) + _encode(state)


def _head(entries: int) -> bytes:
    if entries <= _LARGEST_FIXED_MAP:
        return bytes([0x80 | entries])
    return bytes([_MAP_16]) + entries.to_bytes(2, "big")
