"""A machine of several modules is one machine: what it does depends on the guest and its input, on nothing else."""

import os
import threading
from pathlib import Path

import pytest

from ftvm.errors import HostError, UnusableFile, UsageError
from ftvm.machine import Machine, MachineConfig
from ftvm.monitor import console
from ftvm.units import GIB, MIB
from tests.divergence.machines import build, kernel, run

GUESTS = {
    "hello": {},
    "workload": {},
    "selfmod": {},
    "interrupts": {},
    "echo": {"input": b"Hello, echo!\rq", "input_after": "echo: type, q ends"},
}


@pytest.mark.parametrize("guest", GUESTS)
def test_state_does_not_depend_on_epochs_or_modules(guest: str) -> None:
    options = GUESTS[guest]
    seen = {
        (one.result.outcome, one.result.exit_code, one.result.blocks, one.result.state_digest, one.console)
        for one in (
            run(guest, modules=1, **options),
            run(guest, modules=2, epoch_blocks=77_777, **options),
            run(guest, modules=3, **options),
            run(guest, modules=2, epoch_blocks=1_000 if guest != "workload" else 10_000, **options),
        )
    }
    assert len(seen) == 1
    assert next(iter(seen))[:2] == ("exit", 0)


def test_every_single_block_can_be_a_sync_point() -> None:
    stepped = run("hello", modules=2, epoch_blocks=1)
    assert stepped.result.state_digest == run("hello").result.state_digest
    assert stepped.result.sync_points == stepped.result.blocks + 1


def test_modules_are_two_processes_that_agree_at_every_sync_point() -> None:
    result = run("workload", epoch_blocks=100_000).result
    assert result.sync_points == result.blocks // 100_000 + 2
    assert [(module.index, module.state, module.faults) for module in result.modules] == [
        (0, "duplexed", {}),
        (1, "duplexed", {}),
    ]
    assert result.divergences == []


def test_the_screen_and_memory_are_those_of_the_verified_state() -> None:
    machine = run("hello").machine
    assert machine.screen().lines()[0].rstrip() == "Hello from 64-bit mode, loaded by"
    assert machine.read_memory(0xB8000, 4) == b"H\x07e\x07"
    with pytest.raises(UsageError):
        machine.read_memory(64 * MIB - 1, 2)


@pytest.mark.parametrize(
    ("guest", "outcome", "exit_code"),
    [("failing", "exit", 3), ("hang", "halted", None), ("triplefault", "crash", None)],
)
def test_every_end_of_a_guest_has_its_outcome(guest: str, outcome: str, exit_code: int | None) -> None:
    result = run(guest).result
    assert (result.outcome, result.exit_code) == (outcome, exit_code)


def test_a_runaway_guest_is_ended_by_the_timeout() -> None:
    assert run("spin", timeout_s=0.5).result.outcome == "timeout"


def test_the_text_to_stop_at_ends_the_run_at_its_own_position() -> None:
    ends = {run("workload", stop_on="sieve", epoch_blocks=length).result.blocks for length in (5_000, 1_000_000)}
    assert len(ends) == 1
    assert run("workload", stop_on="sieve").result.outcome == "stopped"


def test_a_request_from_another_thread_ends_the_run() -> None:
    machine = build("spin", lambda channel, data: threading.Timer(0.1, machine.request_stop).start())
    assert machine.run().outcome == "stopped"


def test_a_request_before_the_run_is_not_forgotten() -> None:
    machine = build("spin")
    machine.request_stop()
    assert machine.run().outcome == "stopped"


@pytest.mark.parametrize("real_time", [False, True])
def test_input_that_is_sent_while_the_guest_runs_reaches_it(real_time: bool) -> None:
    shown: list[bytes] = []

    def answer(channel: str, data: bytes) -> None:
        shown.append(data)
        if b"q ends" in data:
            machine.send_console(b"abc")
        if b"abc" in b"".join(shown):
            machine.send_console(b"q")

    machine = build("echo", answer, interactive=True, real_time=real_time)
    assert machine.run().outcome == "exit"
    assert b"abc" in b"".join(shown)


def test_input_from_a_descriptor_wakes_an_idle_guest() -> None:
    reader, writer = os.pipe()

    def typed() -> None:
        machine.send_console(os.read(reader, 100))

    def answer(channel: str, data: bytes) -> None:
        if b"q ends" in data:
            os.write(writer, b"q")

    machine = build("echo", answer, interactive=True)
    machine.watch(reader, typed)
    assert machine.run().outcome == "exit"
    os.close(reader)
    os.close(writer)


def test_without_anybody_to_type_a_guest_that_waits_for_input_has_halted() -> None:
    assert run("echo").result.outcome == "halted"


def test_long_input_enters_as_the_guest_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "WIRE_BYTES", 100)
    text = b"0123456789abcdef" * 50
    shown: list[bytes] = []
    machine = build("echo", lambda channel, data: shown.append(data), interactive=True)
    machine.send_console(text + b"q")
    assert machine.run().outcome == "exit"
    assert text in b"".join(shown).replace(b"\r\n", b"")


def test_nothing_of_a_run_is_left_behind() -> None:
    def mine() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    run("hello")
    before = mine()
    pids = [module.pid for _ in range(3) for module in run("hello").result.modules]
    assert mine() == before
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_an_exception_in_the_callers_callback_ends_the_modules() -> None:
    def fail(channel: str, data: bytes) -> None:
        raise ZeroDivisionError

    machine = build("spin", fail)
    with pytest.raises(ZeroDivisionError):
        machine.run()
    assert not any(Path(f"/proc/{module.pid}").exists() for module in machine.modules)


def test_an_image_that_cannot_be_booted_is_refused_before_any_module_starts(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a kernel\n")
    with pytest.raises(UnusableFile):
        Machine(MachineConfig(image=tmp_path / "text"))


def test_more_memory_than_the_host_has_is_refused() -> None:
    with pytest.raises(HostError, match="GiB, the host has"):
        Machine(MachineConfig(image=kernel("hello"), memory_bytes=64 * GIB, modules=3)).run()


@pytest.mark.parametrize(
    "options",
    [
        {"modules": 0},
        {"modules": 4},
        {"memory_bytes": 1024},
        {"memory_bytes": 9999 * GIB},
        {"memory_bytes": 4 * MIB + 1},
        {"epoch_blocks": 0},
        {"timeout_s": 0.0},
        {"input_after": "login:"},
    ],
)
def test_a_machine_that_cannot_be_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        MachineConfig(image=kernel("hello"), **options)  # type: ignore[arg-type]
