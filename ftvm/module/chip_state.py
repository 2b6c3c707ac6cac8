"""Single fields of a chip's state by name: ``pic0.imr``, ``pit.counters[0].initial``, ``rtc.cmos[14]``."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ftvm.errors import UsageError

INTEGER_BITS = 64
"""Of a field that is a number: no chip has a wider register."""

_PATH = re.compile(r"(?P<chip>[a-z0-9-]+)(?P<steps>(\.[a-z_0-9]+|\[\d+\])+)")
_STEP = re.compile(r"\.([a-z_0-9]+)|\[(\d+)\]")


class ChipField(msgspec.Struct, frozen=True):
    """One place in the states of the ``chips``. Raises UsageError for a path that is not written as above, names a chip
    or a field that is not there, or does not end at a number, a boolean or bytes.

    An element that a list does not have at the moment, and a number that is None at the moment, is no error: there is
    nothing to change.
    """

    chips: Mapping[str, Any]
    path: str

    def __post_init__(self) -> None:
        _, owner, step = self._find()
        value = _get(owner, step)
        if isinstance(value, msgspec.Struct | list | tuple):
            names = value.__struct_fields__ if isinstance(value, msgspec.Struct) else (f"[0] to [{len(value) - 1}]",)
            inside = ", ".join(names)
            raise UsageError(f"{self.path} is not one field of a chip", f"it has {inside}")

    def bits(self) -> int:
        """How wide it is now; 0 if it is not there."""
        _, owner, step = self._find()
        value = _get(owner, step)
        if isinstance(value, bool):
            return 1
        if isinstance(value, int):
            return INTEGER_BITS
        return len(value) * 8 if isinstance(value, bytes | bytearray) else 0

    def get(self) -> int:
        """Bytes are one number, little endian."""
        _, owner, step = self._find()
        value = _get(owner, step)
        return int.from_bytes(value, "little") if isinstance(value, bytes | bytearray) else int(value or 0)

    def set(self, number: int) -> None:
        """Keeps the type; bits that do not fit are lost."""
        state, owner, step = self._find()
        old = _get(owner, step)
        if old is None:
            return
        number &= (1 << self.bits()) - 1
        new: Any = number
        if isinstance(old, bool):
            new = bool(number)
        elif isinstance(old, bytes | bytearray):
            new = type(old)(number.to_bytes(len(old), "little"))
        if isinstance(step, str):
            setattr(owner, step, new)
        else:
            owner[step] = new
        self.chips[self.path.partition(".")[0].partition("[")[0]].state = state

    def _find(self) -> tuple[Any, Any, str | int]:
        """The chip's state, what in it holds the field, and its name or index there."""
        match = _PATH.fullmatch(self.path)
        if match is None:
            raise UsageError(f"{self.path!r} is no field of a chip", "pit.counters[0].initial, for example")
        if match["chip"] not in self.chips:
            raise UsageError(f"there is no chip {match['chip']!r}", f"there are {', '.join(sorted(self.chips))}")
        state = owner = self.chips[match["chip"]].state
        steps = [name or int(index) for name, index in _STEP.findall(match["steps"])]
        for place, step in enumerate(steps):
            if isinstance(step, str):
                known = list(owner.__struct_fields__) if isinstance(owner, msgspec.Struct) else []
                if step not in known:
                    hint = f"there are {', '.join(known)}" if known else None
                    raise UsageError(f"{self.path}: there is no field {step!r}", hint)
            elif not isinstance(owner, list | bytearray):
                raise UsageError(f"{self.path}: no list is there to have an element {step}")
            if place < len(steps) - 1:
                owner = _get(owner, step)
        return state, owner, steps[-1]


def _get(owner: Any, step: str | int) -> Any:
    if isinstance(step, str):
        return getattr(owner, step)
    return owner[step] if step < len(owner) else None
