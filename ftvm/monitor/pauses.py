"""How long the guest stands still between two epochs, where nobody waits for anything but us."""


class Pauses:
    """Told when modules stop and begin to run (monotonic times), and when a pause turned out to be none of ours."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._stopped_s: float | None = None

    def end(self, began_s: float) -> None:
        """The modules began to run again."""
        if self._stopped_s is not None:
            self.longest_s = max(self.longest_s, began_s - self._stopped_s)

    def begin(self, stopped_s: float) -> None:
        """The modules came to a sync point."""
        self._stopped_s = stopped_s

    def passed(self, longest_s: float) -> None:
        """Several pauses went by, none longer than this."""
        self.longest_s = max(self.longest_s, longest_s)

    def forget(self) -> None:
        """What the guest waits for here is not us."""
        self._stopped_s = None
