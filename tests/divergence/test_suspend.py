"""A machine that is saved and resumed is the same machine: nothing is shown twice or lost, and the end is equal."""

import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ftvm.errors import FtvmError, HostError, UsageError
from ftvm.guests.catalogue import Guest
from ftvm.machine import Machine, MachineConfig, RunResult
from ftvm.module.fault import RegisterBit
from ftvm.monitor import savefile
from ftvm.monitor.eventlog import SUSPEND_FAILED, SUSPENDED, Event
from ftvm.units import MIB
from tests.divergence.machines import golden, kernel

LOOKS_S = 0.0005
"""Between two looks at a machine that is to be disturbed: they must not take the modules' cores."""


@dataclass
class Session:
    """What the outside saw of one guest, over all its suspensions."""

    shown: bytearray = field(default_factory=bytearray)
    kinds: list[str] = field(default_factory=list)

    def machine(self, config: MachineConfig) -> Machine:
        return Machine(config, lambda channel, data: self.shown.extend(data), lambda event: self._note(event))

    def _note(self, event: Event) -> None:
        self.kinds.append(event.kind)

    def boot(self, name: str, **settings: Any) -> Machine:
        return self.machine(
            MachineConfig(image=kernel(name), **{"memory_bytes": 64 * MIB, "timeout_s": 120.0, **settings})
        )

    def resume(self, file: Path, **settings: Any) -> Machine:
        return self.machine(MachineConfig.resume(savefile.load(file), **{"timeout_s": 120.0, **settings}))


@contextmanager
def looking(machine: Machine, look: Callable[[], object]) -> Iterator[None]:
    """``look`` is called again and again on the machine's thread, at least once while an epoch runs."""
    always = os.eventfd(1)

    def now() -> None:
        time.sleep(LOOKS_S)
        look()

    machine.watch(always, now)
    try:
        yield
    finally:
        os.close(always)


def suspended(machine: Machine, file: Path, when: Callable[[], bool]) -> RunResult:
    """Run until ``when``, and suspend to ``file`` there."""

    def look() -> None:
        if machine.saved_to is None and when():
            machine.suspend(file)

    with looking(machine, look):
        result = machine.run()
    assert result.outcome == "stopped"
    assert machine.saved_to == file
    return result


@pytest.mark.parametrize("seed", range(20))
def test_suspended_anywhere_and_resumed_it_ends_as_if_undisturbed(seed: int, tmp_path: Path) -> None:
    undisturbed = golden("workload")
    dice = random.Random(seed)
    at = dice.randrange(1, undisturbed.result.blocks)
    session = Session()
    first = session.boot("workload", modules=dice.choice([1, 2, 3]), epoch_blocks=dice.randrange(5_000, 700_000))
    cut = suspended(first, tmp_path / "file", lambda: first.position >= at)
    assert undisturbed.console.startswith(session.shown)
    second = session.resume(
        tmp_path / "file", modules=dice.choice([1, 2, 3]), epoch_blocks=dice.randrange(5_000, 2_000_000)
    )
    result = second.run()
    assert cut.blocks < result.blocks == undisturbed.result.blocks
    assert (session.shown, result.state_digest) == (undisturbed.console, undisturbed.result.state_digest)
    assert result.divergences == []


def test_a_machine_can_be_suspended_again_and_again(tmp_path: Path) -> None:
    undisturbed = golden("interrupts")
    session = Session()
    file = tmp_path / "file"
    cuts = [undisturbed.result.blocks * part // 6 for part in range(1, 6)]
    machine = session.boot("interrupts", epoch_blocks=1_000)
    for cut in cuts:
        suspended(machine, file, lambda machine=machine, cut=cut: machine.position >= cut)  # type: ignore[misc]
        machine = session.resume(file, epoch_blocks=1_000)
    result = machine.run()
    assert (session.shown, result.state_digest) == (undisturbed.console, undisturbed.result.state_digest)


def test_what_is_resumed_and_suspended_at_once_is_the_same_file(tmp_path: Path) -> None:
    session = Session()
    first = session.boot("workload", epoch_blocks=50_000)
    suspended(first, tmp_path / "first", lambda: first.position >= 3_000_000)
    suspended(session.resume(tmp_path / "first", modules=3), tmp_path / "second", lambda: True)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


# ---- input on its way ----


def test_input_on_its_way_is_not_lost_wherever_it_is(tmp_path: Path) -> None:
    """Not taken by a sync point yet, or taken into an epoch that is never committed, or in the guest already."""
    text = b"0123456789" * 10
    wanted = {(False, True), (True, False), (False, False)}
    seen: set[tuple[bool, bool]] = set()
    for looks in range(60):  # how many it takes is the host's affair
        if wanted <= seen:
            break
        session, file = Session(), tmp_path / f"file{looks}"
        machine = session.boot("echo", interactive=True, epoch_blocks=20_000)
        passed: list[int] = []

        def ready(machine: Machine = machine, session: Session = session, passed: list[int] = passed) -> bool:
            if b"q ends" not in session.shown:
                return False
            if not passed:
                machine.send_console(text)
            passed.append(machine.position)
            return len(passed) > looks  # noqa: B023  it is called in this round only

        suspended(machine, file, ready)
        state = savefile.load(file).state
        seen.add((bool(state.inputs), bool(state.typed)))
        resumed = session.resume(file, interactive=True)
        resumed.send_console(b"q")
        assert resumed.run().outcome == "exit"
        assert session.shown.count(text) == 1
    assert wanted <= seen


def test_a_suspended_guest_does_not_see_the_time_pass(tmp_path: Path) -> None:
    session = Session()
    first = session.boot("echo", interactive=True, real_time=True)
    suspended(first, tmp_path / "file", lambda: b"q ends" in session.shown)
    time.sleep(0.3)
    second = session.resume(tmp_path / "file", interactive=True, real_time=True)
    second.send_console(b"q")
    result = second.run()
    assert result.outcome == "exit"
    assert result.virtual_s < 0.3


def test_linux_is_suspended_with_keys_on_their_way(fetched: Callable[[str], Guest], tmp_path: Path) -> None:
    """A line is typed when a prompt comes: with epochs of one length, at equal positions in all runs."""
    guest = fetched("debian-cloud")
    keys = [b"x=4711\r", b"seq 1 2000 | md5sum\r", b"dmesg | grep -ci error\r", b"echo $((x + 1)); poweroff -f\r"]
    settings: dict[str, Any] = {"initrd": guest.initrd, "append": guest.append, "memory_bytes": 128 * MIB}
    prompt = b"\n" + (guest.ready or "").encode()

    def play(cuts: set[int], **others: Any) -> tuple[bytes, RunResult]:
        """``cuts``: the machine is suspended right after these lines were sent, and goes on as ``others`` say."""
        shown, typed = bytearray(), 0

        def type_at_prompt(channel: str, data: bytes) -> None:
            nonlocal typed
            shown.extend(data)
            if shown.count(prompt) > typed < len(keys):
                machine.send_console(keys[typed])
                typed += 1
                if typed in cuts:
                    machine.suspend(tmp_path / "file")

        machine = Machine(MachineConfig(image=guest.path, timeout_s=120.0, **settings), type_at_prompt)
        result = machine.run()
        while machine.saved_to is not None:
            config = MachineConfig.resume(savefile.load(machine.saved_to), timeout_s=120.0, **others)
            machine = Machine(config, type_at_prompt)
            result = machine.run()
        return bytes(shown), result

    undisturbed, end = play(set())
    assert b"4712" in undisturbed
    shown, result = play({1, 2, 4}, modules=3)
    assert (shown, result.outcome, result.state_digest) == (undisturbed, "exit", end.state_digest)


def test_linux_is_suspended_while_it_boots(fetched: Callable[[str], Guest], tmp_path: Path) -> None:
    guest = fetched("debian-cloud")
    settings: dict[str, Any] = {
        "image": guest.path,
        "initrd": guest.initrd,
        "append": guest.append,
        "memory_bytes": 128 * MIB,
        "timeout_s": 120.0,
        "input": b"cat /proc/interrupts | md5sum; free | wc; poweroff -f\n",
        "input_after": guest.ready,
    }
    undisturbed = Session()
    end = undisturbed.machine(MachineConfig(**settings)).run()
    dice = random.Random(7)
    session, file = Session(), tmp_path / "file"
    machine = session.machine(MachineConfig(**settings, epoch_blocks=500_000))
    for cut in sorted(dice.randrange(1, end.blocks) for _ in range(3)):
        suspended(machine, file, lambda machine=machine, cut=cut: machine.position >= cut)  # type: ignore[misc]
        machine = session.resume(file, modules=dice.choice([1, 2, 3]), epoch_blocks=dice.randrange(300_000, 3_000_000))
    result = machine.run()
    assert (session.shown, result.state_digest) == (undisturbed.shown, end.state_digest)


# ---- faults meanwhile ----


@pytest.mark.parametrize("victims", [[0], [1], [0, 1]])
def test_suspended_while_modules_are_killed(victims: list[int], tmp_path: Path) -> None:
    undisturbed = golden("workload")
    session = Session()
    first = session.boot("workload", epoch_blocks=100_000)

    def kill() -> bool:
        if first.position < 3_000_000:
            return False
        for victim in victims:
            os.kill(first.modules[victim].pid, signal.SIGKILL)
        return True

    suspended(first, tmp_path / "file", kill)
    second = session.resume(tmp_path / "file")
    shots: list[int] = []

    def kill_at_once() -> None:
        if not shots:
            shots.extend(victims)
            for victim in victims:
                os.kill(second.modules[victim].pid, signal.SIGKILL)

    with looking(second, kill_at_once):
        result = second.run()
    assert (session.shown, result.state_digest) == (undisturbed.console, undisturbed.result.state_digest)


@pytest.mark.parametrize("stuck_at", [None, 1])
@pytest.mark.parametrize("looks", [1, 2, 3, 5, 8])
def test_suspended_while_a_fault_is_diagnosed(looks: int, stuck_at: int | None, tmp_path: Path) -> None:
    """The verified state stands still from the faulty epoch to the verdict; the machine is looked at on the way. A
    fault that has happened is not in the file; suspended earlier, it is still to come."""
    undisturbed = golden("workload")
    session = Session()
    first = session.boot("workload", epoch_blocks=100_000)
    first.inject(1, 2_050_000, RegisterBit("rbp", 40), stuck_at)
    looked: list[int] = []

    def on_the_way() -> bool:
        if first.position >= 2_000_000:
            looked.append(first.position)
        return len(looked) == looks

    suspended(first, tmp_path / "file", on_the_way)
    result = session.resume(tmp_path / "file").run()
    assert (session.shown, result.state_digest) == (undisturbed.console, undisturbed.result.state_digest)
    blamed = {divergence.module for divergence in result.divergences}
    if None in blamed:  # nobody, when module 1 was lost while it ran the epoch again, and those who were left agreed
        assert {"death", "hang"} & {d.kind for d in result.divergences if d.module == 1}
    assert blamed <= {1, None}


def test_faults_that_have_not_happened_go_with_the_machine_and_those_that_have_do_not(tmp_path: Path) -> None:
    undisturbed = golden("workload")
    session = Session()
    with session.boot("workload", epoch_blocks=100_000) as first:
        for position in (500_000, 3_000_000):
            first.inject(1, position, RegisterBit("rbp", 40))
        assert first.run_until(position=1_000_000) is None
        first.inject(1, 3_500_000, RegisterBit("rbp", 40))  # the modules have not even been told
        first.suspend(tmp_path / "file")
    second = session.resume(tmp_path / "file", epoch_blocks=100_000)
    second.inject(0, 4_000_000, RegisterBit("rbp", 40))
    result = second.run()
    assert (session.shown, result.state_digest) == (undisturbed.console, undisturbed.result.state_digest)
    assert [(d.module, d.verdict) for d in result.divergences] == [
        (1, "transient"),
        (1, "transient"),
        (0, "transient"),
    ]
    assert [fault.position for fault in result.faults] == [3_000_000, 3_500_000, 4_000_000]


@pytest.mark.parametrize("state", ["duplexing", "duplexed"])
def test_suspended_while_a_module_is_brought_back(state: str, tmp_path: Path) -> None:
    """``state`` of the module that was killed, when the machine is suspended."""
    undisturbed = golden("workload")
    session = Session()
    first = session.boot("workload", epoch_blocks=20_000)
    killed: list[int] = []

    def in_that_state() -> bool:
        victim = first.modules[1]
        if not killed and first.position >= 1_000_000:
            killed.append(victim.pid)
            os.kill(victim.pid, signal.SIGKILL)
        elif killed:
            time.sleep(0.02)  # a new process needs its time, so the guest must take its own
        return bool(killed) and victim.state == state and victim.restarts == (state == "duplexed")

    suspended(first, tmp_path / "file", in_that_state)
    result = session.resume(tmp_path / "file").run()
    assert (session.shown, result.state_digest) == (undisturbed.console, undisturbed.result.state_digest)
    assert [module.state for module in result.modules] == ["duplexed", "duplexed"]


def test_at_a_fail_stop_the_verified_state_is_saved_and_healthy_modules_go_on_from_it(tmp_path: Path) -> None:
    undisturbed = golden("workload")
    session = Session()
    first = session.boot("workload", epoch_blocks=100_000, save_on_fail_stop=tmp_path / "file")
    for module in (0, 1):  # two bad modules and a good arbiter: three opinions
        first.inject(module, 2_345_678, RegisterBit("rbp", 40 + module), stuck_at=1)
    assert first.run().outcome == "fail-stop"
    assert first.saved_to == tmp_path / "file"
    result = session.resume(tmp_path / "file").run()
    assert (session.shown, result.state_digest) == (undisturbed.console, undisturbed.result.state_digest)


# ---- how runs end ----


def test_the_text_to_stop_on_is_still_waited_for(tmp_path: Path) -> None:
    options: dict[str, Any] = {"stop_on": "quicksort", "epoch_blocks": 50_000}
    undisturbed = Session()
    end = undisturbed.boot("workload", **options).run()
    session = Session()
    first = session.boot("workload", **options)
    suspended(first, tmp_path / "file", lambda: first.position >= end.blocks // 2)
    result = session.resume(tmp_path / "file").run()
    assert (result.outcome, result.blocks, result.state_digest) == ("stopped", end.blocks, end.state_digest)
    assert session.shown == undisturbed.shown


def test_after_the_text_to_stop_on_the_machine_goes_on_to_the_next_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    session = Session()
    script: dict[str, Any] = {"input": b"one STOP two STOP three q", "input_after": "q ends"}
    assert session.boot("echo", **script, stop_on="STOP", save_on_exit=file).run().outcome == "stopped"
    assert session.shown.endswith(b"one STOP")
    assert session.resume(file, stop_on="STOP", save_on_exit=file).run().outcome == "stopped"
    assert session.shown.endswith(b"two STOP")
    assert session.resume(file).run().outcome == "exit"
    undisturbed = Session()
    undisturbed.boot("echo", **script).run()
    assert session.shown == undisturbed.shown


@pytest.mark.parametrize(
    ("guest", "outcome"), [("hello", "exit"), ("failing", "exit"), ("hang", "halted"), ("triplefault", "crash")]
)
def test_a_guest_that_ended_by_itself_is_not_saved(guest: str, outcome: str, tmp_path: Path) -> None:
    machine = Session().boot(guest, save_on_exit=tmp_path / "file")
    assert machine.run().outcome == outcome
    assert isinstance(machine.not_saved, UsageError)
    assert list(tmp_path.iterdir()) == []


def test_a_guest_cannot_be_suspended_in_its_last_words(tmp_path: Path) -> None:
    refused: list[FtvmError] = []

    def suspend(channel: str, data: bytes) -> None:
        try:
            machine.suspend(tmp_path / "file")
        except UsageError as error:
            refused.append(error)

    machine = Machine(MachineConfig(image=kernel("hello"), memory_bytes=16 * MIB), suspend)
    assert machine.run().outcome == "exit"
    assert [error.message for error in refused[-1:]] == ["nothing to save: the guest ended by itself"]


def test_a_machine_that_has_not_begun_cannot_be_suspended(tmp_path: Path) -> None:
    machine = Session().boot("spin", save_on_exit=tmp_path / "file")
    with pytest.raises(UsageError, match="not begun"):
        machine.suspend(tmp_path / "file")
    machine.request_stop()
    assert machine.run().outcome == "stopped"
    assert machine.saved_to == tmp_path / "file", "its modules had agreed on where they begin"


@contextmanager
def small_disk(bytes_free: int) -> Iterator[None]:
    """Every file that is written in here can hold so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("trouble", ["full", "folder", "directory"])
def test_a_machine_that_cannot_be_saved_goes_on(trouble: str, tmp_path: Path) -> None:
    undisturbed = golden("workload")
    folder = tmp_path / "folder"
    folder.mkdir()
    target = {"full": folder / "file", "folder": folder / "none" / "file", "directory": folder}[trouble]
    session = Session()
    machine = session.boot("workload", epoch_blocks=100_000)
    refused: list[FtvmError] = []

    def suspend() -> None:
        if machine.position > 1_000_000 and not refused:
            try:
                if trouble == "full":
                    with small_disk(65536):
                        machine.suspend(target)
                else:
                    machine.suspend(target)
            except HostError as error:
                refused.append(error)

    with looking(machine, suspend):
        result = machine.run()
    assert len(refused) == 1
    assert str(target) in refused[0].message
    assert (session.shown, result.state_digest) == (undisturbed.console, undisturbed.result.state_digest)
    assert session.kinds == [SUSPEND_FAILED]
    assert list(folder.iterdir()) == []


def test_events_tell_of_a_suspension(tmp_path: Path) -> None:
    session = Session()
    machine = session.boot("workload")
    suspended(machine, tmp_path / "file", lambda: machine.position > 0)
    assert session.kinds == [SUSPENDED]


def test_the_disk_may_be_full_when_the_run_ends(tmp_path: Path) -> None:
    machine = Session().boot("spin", timeout_s=0.5, save_on_exit=tmp_path / "gone" / "file")
    assert machine.run().outcome == "timeout"
    assert isinstance(machine.not_saved, HostError)


def test_a_file_that_changes_while_the_machine_starts_is_noticed(tmp_path: Path) -> None:
    session = Session()
    files = [tmp_path / "early", tmp_path / "late"]
    for file, at in zip(files, (100_000, 3_000_000), strict=True):
        machine = session.boot("workload", epoch_blocks=100_000)
        suspended(machine, file, lambda machine=machine, at=at: machine.position >= at)  # type: ignore[misc]
    resumed = session.resume(files[0])
    shutil.copy(files[1], files[0])
    with pytest.raises(FtvmError, match="was written to"):
        resumed.run()
