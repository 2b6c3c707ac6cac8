"""How inputs get into modules: what devices write goes straight into RAM, and all else with a command.

A module that stands still does not look at its RAM, which the monitor maps too. So what a disk or a NIC writes need not
be encoded, copied through a mailbox and decoded: it is copied once into each module, and the command says where.
Nor does it have to be compared where the guest did not write: what stands there is known (ft_voter_place).
"""

from array import array
from collections.abc import Sequence
from itertools import chain
from typing import Any

from ftvm._native import ffi
from ftvm.module import events
from ftvm.module.events import Bulk, DeviceIn, Input, Placed, Poke
from ftvm.monitor.image import VerifiedImage


class Delivery:
    """One command's ``inputs``: ``payload`` for each module, after ``place`` has put the rest into their RAM."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self._bulk: list[Bulk] = []
        told: list[Input] = []
        for index, event in enumerate(inputs):
            if isinstance(event, DeviceIn):
                self._bulk += event.bulk
                if event.writes:
                    self._bulk.append(_as_bulk(event.writes))
                told.append(DeviceIn(event.device, [], event.queues))
            elif isinstance(event, Poke):  # it may run instructions: nothing behind it can be done before
                told += inputs[index:]
                break
            else:
                told.append(event)
        if self._bulk:
            self._places = array("Q", chain.from_iterable([place for bulk in self._bulk for place in bulk.segments]))
            told.insert(0, Placed(self._places.tobytes()))
        self.payload = events.encode(told) if told else b""

    def place(self, rams: Sequence[Any], image: VerifiedImage) -> None:
        """Into these modules, which stand still, before they run the epoch."""
        if not self._bulk:
            image.place_nothing()
            return
        data = [ffi.from_buffer(bulk.data) for bulk in self._bulk]
        entries = [(view, len(view), len(bulk.segments)) for view, bulk in zip(data, self._bulk, strict=True)]
        image.place(rams, ffi.new("ft_bulk[]", entries), ffi.from_buffer("ft_extent[]", self._places), data)


def _as_bulk(writes: Sequence[tuple[int, bytes]]) -> Bulk:
    return Bulk([(offset, len(data)) for offset, data in writes], b"".join([data for _, data in writes]))
