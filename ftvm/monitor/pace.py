"""How many blocks the next epoch has when the user leaves that to us: as many as take about EPOCH_S.

Nothing that the guest does depends on it. Short epochs cost wake-ups and Python at every sync point, long ones make
input and recovery wait (benchmarks/lockstep.md). A block takes from half a nanosecond, in a tight loop, to
microseconds, where each reads a device: no fixed number of them suits all guests.
"""

EPOCH_S = 0.02
"""Wall time that is aimed at."""
FIRST_BLOCKS = 1_000_000
MIN_BLOCKS = 10_000
MAX_BLOCKS = 10_000_000
"""The guest may turn from tight loops to slow work at any moment; then one epoch of this length is slow too."""
GROWTH = 2
"""At most from one epoch to the next."""


class Pace:
    """``blocks`` is the length of the next epoch: ``fixed`` for ever, or what the last ones teach if that is None."""

    def __init__(self, fixed: int | None) -> None:
        self._adapts = fixed is None
        self.blocks = FIRST_BLOCKS if fixed is None else fixed

    def observe(self, blocks: int, epoch_s: float) -> None:
        """An epoch of ``blocks`` took ``epoch_s`` of wall time. One that the guest ended early teaches nothing."""
        if self._adapts and blocks >= self.blocks:
            wanted = int(blocks * EPOCH_S / max(epoch_s, 1e-6))
            self.blocks = max(MIN_BLOCKS, min(wanted, GROWTH * blocks, MAX_BLOCKS))
