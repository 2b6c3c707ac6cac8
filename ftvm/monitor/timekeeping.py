"""Real time: how long an idle guest has to wait, so that its clock keeps pace with the wall clock."""

import time

LAG_FORGIVEN_NS = 100_000_000
"""A guest that fell behind by more than this (it was busy) does not catch up: its sleeps keep their length."""


class RealTime:
    """Ties virtual time to the wall clock at the first call, and again when the guest fell far behind."""

    def __init__(self) -> None:
        self._wall_minus_virtual_ns: int | None = None

    def now_ns(self, virtual_ns: int) -> int:
        """The virtual time that the wall clock shows, seen by a guest that stands at ``virtual_ns``."""
        wall_ns = time.monotonic_ns()
        if self._wall_minus_virtual_ns is None or wall_ns - self._wall_minus_virtual_ns > virtual_ns + LAG_FORGIVEN_NS:
            self._wall_minus_virtual_ns = wall_ns - virtual_ns
        return wall_ns - self._wall_minus_virtual_ns
