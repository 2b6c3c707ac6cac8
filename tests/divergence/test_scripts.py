"""A run is its first state and its inputs: with these it is repeated, on any number of modules, with any epochs."""

import os
import signal
from typing import Any

import msgspec
import pytest

from ftvm.errors import UnusableFile
from ftvm.machine import Machine
from ftvm.module.fault import RegisterBit
from ftvm.monitor.script import LoggedInput, Moment
from tests.divergence.machines import build

ECHO = {"interactive": True}


def talk(**options: Any) -> tuple[list[LoggedInput], Moment, str, bytes]:
    """A run of the echo kernel with keys that come as it goes; disturbed by a fault, and by a kill."""
    inputs: list[LoggedInput] = []

    def answer(channel: str, data: bytes) -> None:
        if b"q ends" in data:
            machine.send_console(b"abc")
        if b"abc" in machine.console[-3:]:
            machine.send_console(b"defghijklmnopqrstuvwxyz"[:13])
        if b"o" in machine.console[-1:]:
            os.kill(machine.modules[0].pid, signal.SIGKILL)
            machine.send_console(b"q")

    machine = build("echo", answer, **ECHO, **options)
    with machine:
        machine.follow_inputs(inputs.append)
        machine.inject(1, 10_000, RegisterBit("rbx", 3))
        result = machine.run()
        assert result.outcome == "exit"
        return inputs, machine.moment, result.state_digest, machine.console


def repeat(machine: Machine, inputs: list[LoggedInput], end: Moment) -> tuple[str, bytes]:
    with machine:
        machine.play(inputs, end)
        while machine.moment < end and machine.run_until(position=end) is None:
            pass
        assert machine.moment == end
        return machine.digest, machine.console


@pytest.mark.parametrize("real_time", [False, True])
def test_a_run_with_keys_is_repeated_from_its_inputs(real_time: bool) -> None:
    inputs, end, digest, console = talk(real_time=real_time)
    shown = bytearray()
    for options in ({"modules": 1}, {"modules": 3, "epoch_blocks": 777}, {"epoch_blocks": 50}):
        machine = build("echo", lambda channel, data: shown.extend(data), real_time=real_time, **ECHO, **options)
        assert repeat(machine, inputs, end) == (digest, console)
    assert not shown, "it was shown when it happened"


def test_time_is_part_of_where_an_input_enters() -> None:
    """At HLT the position stands still: two keys may come at one position and at different times."""
    inputs = talk(real_time=True)[0]
    positions = [entry.position for entry in inputs]
    assert len(set(positions)) < len(positions)
    assert [entry.moment for entry in inputs] == sorted(entry.moment for entry in inputs)


@pytest.mark.parametrize(
    "change",
    [
        lambda inputs: [entry for entry in inputs if b"abc" not in entry.inputs],
        lambda inputs: [msgspec.structs.replace(entry, position=entry.position + 1) for entry in inputs],
        lambda inputs: [*inputs, msgspec.structs.replace(inputs[-1], position=5)],
    ],
)
def test_inputs_that_are_not_those_of_the_run_are_found_out(change: Any) -> None:
    inputs, end, digest, console = talk()
    try:
        assert repeat(build("echo", **ECHO), change(inputs), end) != (digest, console)
    except UnusableFile as error:
        assert "position" in error.message


def test_after_the_script_the_machine_is_live_again() -> None:
    inputs: list[LoggedInput] = []
    with build("echo", **ECHO) as machine:
        machine.follow_inputs(inputs.append)
        machine.run_until(text="q ends")
        there = machine.checkpoint()
        machine.send_console(b"one")
        machine.run_until(text="one")
        end, digest, known = machine.moment, machine.digest, len(inputs)
        machine.restore(there)
        machine.send_console(b"two")
        machine.play(inputs[there.inputs :], end)
        machine.run_until(position=end)
        assert (machine.digest, len(inputs)) == (digest, known)
        machine.run_until(text="two")
        assert len(inputs) > known
        assert machine.console.endswith(b"onetwo")
