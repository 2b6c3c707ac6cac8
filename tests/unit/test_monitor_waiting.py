"""Where the monitor sleeps, for how long, and what pace an idle guest keeps."""

import os
import threading

import pytest

from ftvm.monitor import deadline
from ftvm.monitor.deadline import Deadline
from ftvm.monitor.pace import (
    EPOCH_S,
    FIRST_BLOCKS,
    GROWTH,
    MAX_BLOCKS,
    MIN_BLOCKS,
    NETWORK_EPOCH_S,
    NETWORK_MIN_BLOCKS,
    Pace,
)
from ftvm.monitor.poller import Poller
from ftvm.monitor.timekeeping import LAG_FORGIVEN_NS, RealTime


def test_a_readable_descriptor_ends_the_wait_and_is_reported() -> None:
    poller = Poller()
    reader, writer = os.pipe()
    got: list[bytes] = []
    poller.watch(reader, lambda: got.append(os.read(reader, 100)))
    os.write(writer, b"key")
    poller.wait(None)
    assert got == [b"key"]
    poller.unwatch(reader)
    os.write(writer, b"again")
    poller.wait(0)
    assert got == [b"key"]
    os.close(reader)
    os.close(writer)
    poller.close()


def test_what_is_due_ends_the_wait_and_is_called_again_and_again_until_it_is_cancelled() -> None:
    poller = Poller()
    calls: list[str] = []
    cancel = poller.every(0.001, lambda: calls.append("often"))
    never = poller.every(3600, lambda: calls.append("never"))
    while calls.count("often") < 3:
        poller.wait(None)
    cancel()
    poller.wait(0.003)
    assert calls == 3 * ["often"]
    never()
    never()
    poller.close()


def test_another_thread_can_wake_the_wait() -> None:
    poller = Poller()
    threading.Timer(0.01, poller.wake).start()
    poller.wait(None)
    poller.wake()
    poller.wait(None)  # a wake-up that comes first is not lost
    poller.close()
    poller.wake()


def test_a_callback_may_forget_descriptors_of_the_same_round() -> None:
    poller = Poller()
    pipes = [os.pipe() for _ in range(2)]
    got: list[int] = []

    def forget_all(name: int) -> None:
        got.append(name)
        for reader, _ in pipes:
            poller.unwatch(reader)

    for name, (reader, writer) in enumerate(pipes):
        os.write(writer, b"x")
        poller.watch(reader, lambda name=name: forget_all(name))  # type: ignore[misc]
    poller.wait(None)
    assert len(got) == 1
    for pipe in pipes:
        os.close(pipe[0])
        os.close(pipe[1])
    poller.close()


def test_a_poller_that_was_never_closed_gives_its_descriptor_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        Poller()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_deadline_follows_the_longest_epoch() -> None:
    limits = Deadline()
    assert limits.limit_s(1_000, None) == deadline.ALONE_S
    limits.observe(1.0)
    limits.observe(0.1)
    assert limits.limit_s(1_000, None) == deadline.ALONE_TIMES * deadline.MEMORY


def test_a_host_that_once_stood_still_is_not_waited_for_long_ever_after() -> None:
    limits = Deadline()
    limits.observe(3600.0)
    for _ in range(1_000):
        limits.observe(0.02)
    assert limits.limit_s(1_000, None) == deadline.ALONE_S


def test_a_long_epoch_has_time_before_anything_is_known_of_the_guest() -> None:
    assert Deadline().limit_s(10**10, None) > 1_000


def test_a_module_that_is_behind_the_others_has_less_time() -> None:
    limits = Deadline()
    assert limits.limit_s(10**10, 0.01) == 0.01 + deadline.BEHIND_S
    assert limits.limit_s(1_000, 1.0) == 1.0 + deadline.BEHIND_TIMES


class Wall:
    """The wall clock, as the test moves it."""

    def __init__(self) -> None:
        self.ns = 10_000_000_000
        self.clock = RealTime(lambda: self.ns)
        self.clock.become_idle(0)

    def pass_by(self, ns: int) -> None:
        self.ns += ns


def test_virtual_time_follows_the_wall_clock_from_the_first_look() -> None:
    wall = Wall()
    wall.pass_by(1000)
    assert wall.clock.now_ns() == 1000


def test_a_guest_that_ran_ahead_waits_for_the_wall_clock() -> None:
    wall = Wall()
    wall.pass_by(1_000)
    wall.clock.become_idle(5_000_000)
    assert wall.clock.now_ns() == 1_000


def test_a_guest_that_is_a_little_behind_catches_up() -> None:
    wall = Wall()
    wall.pass_by(LAG_FORGIVEN_NS)
    wall.clock.become_idle(0)
    assert wall.clock.now_ns() == LAG_FORGIVEN_NS


def test_a_guest_that_is_far_behind_does_not_catch_up() -> None:
    wall = Wall()
    wall.pass_by(LAG_FORGIVEN_NS + 1)
    wall.clock.become_idle(0)
    assert wall.clock.now_ns() == 0
    wall.pass_by(10)
    assert wall.clock.now_ns() == 10


def test_a_long_sleep_ends() -> None:
    wall = Wall()
    wall.pass_by(20 * LAG_FORGIVEN_NS)
    assert wall.clock.now_ns() == 20 * LAG_FORGIVEN_NS


def test_epochs_are_short_at_once_while_frames_flow_and_long_again_afterwards() -> None:
    pace = Pace(None)
    while pace.blocks < MAX_BLOCKS:
        pace.observe(pace.blocks, EPOCH_S / GROWTH)
    pace.hurry(True)
    assert pace.blocks == int(MAX_BLOCKS * NETWORK_EPOCH_S / EPOCH_S)
    pace.observe(pace.blocks, 2 * NETWORK_EPOCH_S)
    assert pace.blocks == int(MAX_BLOCKS * NETWORK_EPOCH_S / EPOCH_S) // 2
    pace.hurry(False)
    assert pace.blocks == MAX_BLOCKS // 2


def test_a_busy_host_does_not_make_epochs_ever_shorter_while_frames_flow() -> None:
    pace = Pace(None)
    pace.hurry(True)
    for _ in range(10):
        pace.observe(pace.blocks, 1.0)
    assert pace.blocks == NETWORK_MIN_BLOCKS


def test_an_epoch_length_that_was_asked_for_stays() -> None:
    pace = Pace(77)
    pace.observe(77, 5.0)
    assert pace.blocks == 77


def test_epochs_grow_and_shrink_to_the_time_that_is_aimed_at() -> None:
    pace = Pace(None)
    for _ in range(20):
        pace.observe(pace.blocks, pace.blocks * 5e-9)
    assert pace.blocks == pytest.approx(EPOCH_S / 5e-9, rel=0.01)
    pace.observe(pace.blocks, pace.blocks * 100e-9)
    assert pace.blocks == pytest.approx(EPOCH_S / 100e-9, rel=0.01), "at once, when the guest turns slow"


def test_epochs_keep_within_bounds_and_do_not_leap() -> None:
    pace = Pace(None)
    before = pace.blocks
    pace.observe(pace.blocks, 0.0)
    assert pace.blocks == GROWTH * before
    for _ in range(10):
        pace.observe(pace.blocks, 0.0)
    assert pace.blocks == MAX_BLOCKS
    pace.observe(pace.blocks, 1e6)
    assert pace.blocks == MIN_BLOCKS


def test_an_epoch_that_the_guest_ended_early_teaches_nothing() -> None:
    pace = Pace(None)
    pace.observe(pace.blocks - 1, 1.0)
    assert pace.blocks == FIRST_BLOCKS
