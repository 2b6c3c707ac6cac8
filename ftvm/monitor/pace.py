"""How many blocks the next epoch has when the user leaves that to us: as many as take about EPOCH_S.

Nothing that the guest does depends on it. Short epochs cost wake-ups and Python at every sync point, long ones make
input and recovery wait (benchmarks/lockstep.md). A block takes from half a nanosecond, in a tight loop, to
microseconds, where each reads a device: no fixed number of them suits all guests.
"""

EPOCH_S = 0.04
"""Wall time that is aimed at. An epoch costs 1 to 2 ms, most of it the sleep and the waking of modules: with 20 ms that
was 5 % and more. Whoever waits for the guest's output or has input for it waits for half an epoch on the average."""
NETWORK_EPOCH_S = 0.004
"""The same while frames flow: an answer of a busy guest waits for the end of its epoch (benchmarks/net.md)."""
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
        self._epoch_s = EPOCH_S
        self.blocks = FIRST_BLOCKS if fixed is None else fixed

    def aim(self, epoch_s: float) -> None:
        """From now on epochs are to take about so long."""
        if self._adapts and epoch_s != self._epoch_s:
            blocks = int(self.blocks * epoch_s / self._epoch_s)
            self.blocks = max(MIN_BLOCKS, min(blocks, MAX_BLOCKS))
            self._epoch_s = epoch_s

    def observe(self, blocks: int, epoch_s: float) -> None:
        """An epoch of ``blocks`` took ``epoch_s`` of wall time. One that the guest ended early teaches nothing."""
        if self._adapts and blocks >= self.blocks:
            wanted = int(blocks * self._epoch_s / max(epoch_s, 1e-6))
            self.blocks = max(MIN_BLOCKS, min(wanted, GROWTH * blocks, MAX_BLOCKS))
