"""Real time: how long an idle guest has to wait, so that its clock keeps pace with the wall clock."""

import time
from collections.abc import Callable

LAG_FORGIVEN_NS = 100_000_000
"""A guest that fell behind by more than this (it was busy) does not catch up: its sleeps keep their length."""


class RealTime:
    """Ties virtual time to the wall clock when the guest becomes idle for the first time, and again when it had fallen
    far behind by then."""

    def __init__(self, wall_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._wall_ns = wall_ns
        self._wall_minus_virtual_ns: int | None = None

    def become_idle(self, virtual_ns: int) -> None:
        """The guest stands at ``virtual_ns``, and begins to wait."""
        ahead_ns = self._wall_ns() - virtual_ns
        if self._wall_minus_virtual_ns is None or ahead_ns > self._wall_minus_virtual_ns + LAG_FORGIVEN_NS:
            self._wall_minus_virtual_ns = ahead_ns

    def now_ns(self) -> int:
        """The virtual time that the wall clock shows, once the guest was idle."""
        assert self._wall_minus_virtual_ns is not None
        return self._wall_ns() - self._wall_minus_virtual_ns
