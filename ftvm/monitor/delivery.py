"""How inputs get into modules: what devices read or received goes straight into RAM, and all else with a command.

A module that stands still does not look at its RAM, which the monitor maps too. So bulk data need not be encoded,
copied through a mailbox and decoded: they are copied once into each module, and the command says where that was.
"""

from array import array
from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec

from ftvm._native import ffi
from ftvm.module import events
from ftvm.module.events import Bulk, DeviceIn, Input, Placed, Poke
from ftvm.monitor.image import VerifiedImage
from ftvm.units import PAGE_BYTES


class Delivery:
    """One command's ``inputs``: ``payload`` for each module, after ``place`` has put the rest into their RAM."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        lifted = _lift(inputs)
        if not lifted:
            self._bulk: list[Bulk] = []
            self.payload = events.encode(inputs) if inputs else b""
            return
        self._bulk = [bulk for index in lifted for bulk in inputs[index].bulk]  # type: ignore[attr-defined]
        self._places = array("Q", chain.from_iterable([place for bulk in self._bulk for place in bulk.segments]))
        left = [
            msgspec.structs.replace(event, bulk=[]) if index in lifted else event for index, event in enumerate(inputs)
        ]
        self.payload = events.encode([Placed(self._places.tobytes()), *left])

    def place(self, rams: Sequence[Any], image: VerifiedImage) -> None:
        """Into these modules, which stand still."""
        if self._bulk:
            views = [ffi.from_buffer(bulk.data) for bulk in self._bulk]
            entries = [(view, len(view), len(bulk.segments)) for view, bulk in zip(views, self._bulk, strict=True)]
            places = ffi.from_buffer("ft_extent[]", self._places)
            image.place(rams, ffi.new("ft_bulk[]", entries), places)


def _lift(inputs: Sequence[Input]) -> list[int]:
    """Which of the inputs have bulk that may be put into RAM before all of them: that nothing before them writes to."""
    lifted: list[int] = []
    written: set[int] = set()  # pages
    for index, event in enumerate(inputs):
        if isinstance(event, DeviceIn):
            if event.bulk:
                if index > 0 and not written.isdisjoint(_pages(event.bulk)):
                    break
                lifted.append(index)
            if index + 1 < len(inputs):
                for offset, data in event.writes:
                    written.update(range(offset // PAGE_BYTES, (offset + len(data) - 1) // PAGE_BYTES + 1))
        elif isinstance(event, Poke):  # it may run instructions
            break
    return lifted


def _pages(bulks: Sequence[Bulk]) -> set[int]:
    segments = [segment for bulk in bulks for segment in bulk.segments]
    return {page for at, size in segments for page in range(at // PAGE_BYTES, (at + size - 1) // PAGE_BYTES + 1)}
