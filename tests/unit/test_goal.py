"""How far a stretch goes: when its goal is reached, and what the modules are told on the way."""

from ftvm.module.events import ConsoleOut, DebugWatch, TextWatch, TimeWatch
from ftvm.monitor.goal import Goal, Stretch
from ftvm.monitor.pauses import Pauses
from ftvm.monitor.script import Moment

HERE = Moment(1000, 50_000)


def test_a_moment_is_reached_there_once_its_inputs_were_taken() -> None:
    stretch = Stretch(Goal(HERE, inputs=3), 0, 0)
    assert not stretch.reached(Moment(999, 60_000), 3, 1)
    assert not stretch.reached(HERE, 2, 1)
    assert stretch.reached(HERE, 3, 1)
    assert stretch.reached(Moment(1001, 50_010), 2, 1)


def test_sync_points_are_counted_from_where_the_stretch_begins() -> None:
    stretch = Stretch(Goal(sync_points=2), 0, 40)
    assert not stretch.reached(HERE, 0, 41)
    assert stretch.reached(HERE, 0, 42)


def test_a_text_is_found_across_epochs_and_on_the_serial_console_only() -> None:
    stretch = Stretch(Goal(text=b"ready"), 0, 0)
    stretch.look_for_text(ConsoleOut("debug", b"ready"))
    stretch.look_for_text(ConsoleOut("serial", b"not rea"))
    assert not stretch.reached(HERE, 0, 1)
    told = stretch.epoch(1000, None, 10, []).inputs
    assert told == [TextWatch(b"ready", 3)]
    stretch.look_for_text(ConsoleOut("serial", b"dy"))
    assert stretch.reached(HERE, 0, 2)


def test_an_epoch_does_not_go_past_the_moment_to_stop_at() -> None:
    stretch = Stretch(Goal(HERE), 0, 0)
    assert stretch.epoch(900, HERE, 5000, []).target == 1000
    assert stretch.epoch(900, HERE, 50, []).target == 950
    waits = stretch.epoch(1000, HERE, 5000, [])
    assert waits.target == 1001
    assert waits.inputs == [TimeWatch(50_000)]


def test_a_breakpoint_that_was_met_here_does_not_count_in_the_first_block() -> None:
    stretch = Stretch(Goal(watch=DebugWatch([0x1000, 0x2000]), passed=frozenset({0x1000})), 700, 0)
    first = stretch.epoch(700, None, 5000, [])
    assert first.blocks == 1
    assert first.inputs == [DebugWatch([0x2000])]
    second = stretch.epoch(701, None, 5000, [])
    assert second.blocks == 5000
    assert second.inputs == [DebugWatch([0x1000, 0x2000])]


def test_the_longest_pause_leaves_out_what_the_guest_waits_for() -> None:
    pauses = Pauses()
    pauses.end(10.0)
    assert pauses.longest_s == 0
    for stopped_s, began_s in ((11.0, 11.5), (20.0, 20.25)):
        pauses.begin(stopped_s)
        pauses.end(began_s)
    pauses.begin(30.0)
    pauses.forget()
    pauses.end(90.0)
    assert pauses.longest_s == 0.5
