"""How far something long has come, on standard error: a bar on a terminal, a line now and then anywhere else."""

import contextlib
import time
from collections.abc import Callable, Iterator

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

STEPS = 20
"""Lines that a whole count takes: one for each 5 %."""

Show = Callable[[str, int, int], None]
"""Called with what is being done, and how much of how much is over; 0 of 0: it is not counted."""


@contextlib.contextmanager
def progress() -> Iterator[Show]:
    """Somebody who shows it while the context lasts."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(lambda line: click.echo(line, err=True), time.monotonic)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total or None)


class Lines:
    """Says ``what`` is being done when that is new, and how far it has come each 5 %, with the rate and the time left.

    ``clock`` gives seconds.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._write = write
        self._clock = clock
        self._what = ""
        self._step = 0
        self._first = 0
        self._began_s = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._what, self._first, self._began_s = what, done, self._clock()
            self._step = STEPS * done // total if total else 0
            self._write(f"{what}: {done:,} of {total:,}" if total else what)
        elif total and STEPS * done // total > self._step:
            self._step = STEPS * done // total
            elapsed_s = max(1e-3, self._clock() - self._began_s)
            rate = (done - self._first) / elapsed_s
            left = f", {_duration((total - done) / rate)} left" if done < total else ""
            self._write(f"{what}: {done:,} of {total:,} ({done / total:.0%}), {rate:,.1f} per second{left}")


def _duration(seconds: float) -> str:
    """Such as 1:02:03 or 2:03 (minutes and seconds)."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
