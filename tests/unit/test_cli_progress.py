"""Away from a terminal, progress is a line now and then, with what one wants to know of something long."""

import pytest

from ftvm.cli._progress import Lines, progress


class Told:
    """What was written, on a clock that is told the time."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now_s = 100.0
        self.show = Lines(self.lines.append, lambda: self.now_s)


def test_a_line_comes_at_each_twentieth_with_rate_and_time_left() -> None:
    told = Told()
    for done in range(0, 2001, 10):
        told.show("experiments", done, 2000)
        told.now_s += 0.5
    assert len(told.lines) == 1 + 20
    assert told.lines[0] == "experiments: 0 of 2,000"
    assert told.lines[1] == "experiments: 100 of 2,000 (5%), 20.0 per second, 1:35 left"
    assert told.lines[-1] == "experiments: 2,000 of 2,000 (100%), 20.0 per second"


def test_what_was_done_before_is_not_in_the_rate() -> None:
    told = Told()
    told.show("experiments", 90_000, 115_000)
    told.now_s += 100
    told.show("experiments", 91_000, 115_000)  # still the same twentieth
    told.show("experiments", 92_000, 115_000)
    assert told.lines[1:] == ["experiments: 92,000 of 115,000 (80%), 20.0 per second, 19:10 left"]


def test_what_is_not_counted_is_said_once() -> None:
    told = Told()
    for _ in range(3):
        told.show("golden run of hello", 0, 0)
    told.show("golden run of echo", 0, 0)
    assert told.lines == ["golden run of hello", "golden run of echo"]


def test_hours_are_said_as_hours() -> None:
    told = Told()
    told.show("experiments", 0, 100)
    told.now_s += 3600
    told.show("experiments", 5, 100)
    assert told.lines[-1].endswith(", 19:00:00 left")


def test_without_a_terminal_it_is_plain_text_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as show:
        show("golden run of hello", 0, 0)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "golden run of hello\n")
