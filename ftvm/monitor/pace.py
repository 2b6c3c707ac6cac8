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
NETWORK_MIN_BLOCKS = 200_000
"""While frames flow: an epoch that takes too long for its few blocks is late because the host is busy, and shorter ones
would only make more of them."""
MAX_BLOCKS = 10_000_000
"""The guest may turn from tight loops to slow work at any moment; then one epoch of this length is slow too."""
GROWTH = 2
"""At most from one epoch to the next."""


class Pace:
    """``blocks`` is the length of the next epoch: ``fixed`` for ever, or what the last ones teach if that is None."""

    def __init__(self, fixed: int | None) -> None:
        self._adapts = fixed is None
        self._epoch_s = EPOCH_S
        self._min_blocks = MIN_BLOCKS
        self.blocks = FIRST_BLOCKS if fixed is None else fixed

    def hurry(self, wanted: bool) -> None:
        """Whether epochs are to be short from now on, because frames flow."""
        epoch_s = NETWORK_EPOCH_S if wanted else EPOCH_S
        if self._adapts and epoch_s != self._epoch_s:
            blocks = int(self.blocks * epoch_s / self._epoch_s)
            self._epoch_s = epoch_s
            self._min_blocks = NETWORK_MIN_BLOCKS if wanted else MIN_BLOCKS
            self.blocks = max(self._min_blocks, min(blocks, MAX_BLOCKS))

    def observe(self, blocks: int, epoch_s: float) -> None:
        """An epoch of ``blocks`` took ``epoch_s`` of wall time. One that the guest ended early teaches nothing."""
        if self._adapts and blocks >= self.blocks:
            wanted = int(blocks * self._epoch_s / max(epoch_s, 1e-6))
            self.blocks = max(self._min_blocks, min(wanted, GROWTH * blocks, MAX_BLOCKS))
