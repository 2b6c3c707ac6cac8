"""How long a module may work on an epoch before it counts as hung."""

BLOCK_S = 5e-6
"""For a block at least, while no module is done: one that does nothing but ask a device takes about as long."""

ALONE_S = 10.0
"""At least, while no module is done: a slow host must not be taken for a hung module."""
BEHIND_S = 2.0
"""At least, after another module was done."""
ALONE_TIMES = 50
BEHIND_TIMES = 20
MEMORY = 0.98
"""What is left of an epoch's length after the next one: a host that once stood still is not waited for much longer."""


class Deadline:
    """Adapts to the epochs seen so far. All times are wall-clock seconds."""

    def __init__(self) -> None:
        self._long_s = 0.0

    def observe(self, epoch_s: float) -> None:
        """An epoch ended well after ``epoch_s``."""
        self._long_s = max(MEMORY * self._long_s, epoch_s)

    def limit_s(self, blocks: int, first_done_s: float | None) -> float:
        """Seconds from the start of an epoch of ``blocks``, when the first module was done ``first_done_s`` after it,
        or None."""
        if first_done_s is None:
            return max(ALONE_S, ALONE_TIMES * self._long_s, BLOCK_S * blocks)
        return first_done_s + max(BEHIND_S, BEHIND_TIMES * first_done_s)
