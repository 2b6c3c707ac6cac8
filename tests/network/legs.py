"""A leg whose link and frames are the test's."""

import os
from collections.abc import Sequence

from ftvm.network.frame import Frame
from ftvm.network.leg import LegFailed

NIC = bytes.fromhex("026674766d00")
HOST = bytes.fromhex("020000000001")


def frame(body: bytes, source: bytes = HOST) -> Frame:
    return Frame(NIC + source + b"\x08\x00" + body)


class TestLeg:
    """``failure`` is raised once, from the next call."""

    __test__ = False

    def __init__(self) -> None:
        self.link_up = True
        self.reflects = False
        self.dropped = 0
        self.sent: list[Frame] = []
        self.incoming: list[Frame] = []
        self.failure: LegFailed | None = None
        self.closed = False
        self._alarm = os.eventfd(0)

    def fileno(self) -> int:
        return self._alarm

    def deadline_s(self) -> float | None:
        return None

    def arrive(self, *frames: Frame) -> None:
        self.incoming += frames
        os.eventfd_write(self._alarm, 1)

    def link(self, up: bool) -> None:
        self.link_up = up
        os.eventfd_write(self._alarm, 1)

    def receive(self, limit: int) -> list[Frame]:
        os.eventfd_read(self._alarm)
        self._fail()
        frames, self.incoming = self.incoming[:limit], self.incoming[limit:]
        if self.incoming:
            os.eventfd_write(self._alarm, 1)
        return frames

    def send(self, frames: Sequence[Frame]) -> None:
        self._fail()
        self.sent += frames

    def close(self) -> None:
        self.closed = True
        os.close(self._alarm)

    def _fail(self) -> None:
        failure, self.failure = self.failure, None
        if failure is not None:
            self.link_up = False
            raise failure
