"""The real gdb from Debian on the pair: scripted, as a person would use it."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftvm.guests.catalogue import Guest
from ftvm.machine import Machine, MachineConfig
from tests.divergence.machines import kernel

WAIT_S = 240


@contextmanager
def waiting_for_gdb(folder: Path, *arguments: str) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """``ftvm run`` with these arguments, and where gdb can attach."""
    errors = folder / "stderr"
    with errors.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "ftvm", "run", *arguments, "--gdb", ":0", "--no-interactive"],
            stdout=subprocess.DEVNULL,
            stderr=file,
        )
    try:
        deadline = time.monotonic() + WAIT_S
        while not (found := re.search(r"target remote (\S+)", errors.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, errors.read_text()
            time.sleep(0.1)
        yield found[1], process
    finally:
        process.kill()
        process.wait()


def gdb(address: str, *commands: str) -> str:
    """What gdb says to these commands, after it has attached."""
    script = ["set confirm off", "set pagination off", "set architecture i386:x86-64", f"target remote {address}"]
    words = [word for command in (*script, *commands) for word in ("-ex", command)]
    done = subprocess.run(
        ["gdb", "-q", "-nx", "-batch", *words], capture_output=True, text=True, timeout=WAIT_S, check=False,
        env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    return done.stdout + done.stderr


def addresses(text: str) -> list[str]:
    """The values of ``info registers rip``, one after the other."""
    return re.findall(r"^rip\s+(0x[0-9a-f]+)", text, re.MULTILINE)


def test_a_kernel_is_stopped_at_a_symbol_stepped_and_taken_back(tmp_path: Path) -> None:
    with waiting_for_gdb(tmp_path, "hello") as (address, process):
        said = gdb(
            address,
            f"file {kernel('hello')}",
            "break main",
            "continue",
            "info registers rip",
            "stepi",
            "stepi",
            "stepi",
            "info registers rip",
            "reverse-stepi",
            "reverse-stepi",
            "info registers rip",
            "reverse-continue",
            "info registers rip",
            "delete",
            "continue",
            "detach",
        )
        assert process.wait(WAIT_S) == 0
    main, third, first, back = addresses(said)
    assert "Breakpoint 1, 0x" in said and "<main>" in said
    assert main == back and int(third, 16) > int(first, 16) > int(main, 16)
    assert "the guest is at its end: exit 0" in said
    assert "detached" in said


def test_memory_and_registers_are_read_and_changed_inside_of_a_block(tmp_path: Path) -> None:
    """And what was changed is repeated on the way back and forth."""
    with waiting_for_gdb(tmp_path, "hello") as (address, process):
        said = gdb(
            address,
            f"file {kernel('hello')}",
            "break main",
            "continue",
            "stepi",
            "stepi",
            "info registers rip",
            "set {int}0x200000 = 0x12345678",
            "set $rbx = 0x1122334455667788",
            "set $xmm3.uint128 = 77",
            "info registers rip",
            "p/x {int}0x200000",
            "p/x $rbx",
            "p $xmm3.uint128",
            "stepi",
            "stepi",
            "reverse-stepi",
            "p/x $rbx + 1",
            "set $cr3 = 0",
            "p $eflags",
            "delete",
            "continue",
            "kill",
        )
        process.wait(WAIT_S)
    before, after = addresses(said)
    assert before == after
    assert "0x12345678" in said and "0x1122334455667788" in said and "0x1122334455667789" in said and " = 77" in said
    assert 'Could not write register "cr3"' in said
    assert "exit 0" in said


def test_watchpoints_stop_at_the_access(tmp_path: Path) -> None:
    with waiting_for_gdb(tmp_path, "workload") as (address, process):
        said = gdb(
            address,
            f"file {kernel('workload')}",
            "break main",
            "continue",
            "watch *(long*)0x144000",
            "continue",
            "info registers rip",
            "x/2i $pc - 4",
            "delete",
            "rwatch *(long*)0x144000",
            "continue",
            "kill",
        )
        process.wait(WAIT_S)
    assert "atchpoint 2: *(long*)0x144000" in said and "Old value" in said and "New value" in said
    assert "mov " in said  # the store is the instruction before
    assert "Value = " in said


def test_commands_of_the_prompt_are_monitor_commands(tmp_path: Path) -> None:
    with waiting_for_gdb(tmp_path, "hello") as (address, process):
        said = gdb(address, "monitor status", "monitor nonsense", "monitor help", "monitor quit", "kill")
        process.wait(WAIT_S)
    assert "duplexed" in said and "nonsense" in said and "disas" in said and "detach" in said


def test_ctrl_c_stops_a_guest_that_runs(tmp_path: Path) -> None:
    with waiting_for_gdb(tmp_path, "spin") as (address, process):
        said = gdb(
            address,
            "python import os, signal, threading",
            "python threading.Timer(3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()",
            "continue",
            "info registers rip",
            "kill",
        )
        process.wait(WAIT_S)
    assert addresses(said), said


def test_linux_is_stopped_at_a_symbol_of_its_map(tmp_path: Path, fetched: Callable[[str], Guest]) -> None:
    """Where system calls enter the kernel: the CPU says where that is once the kernel has set itself up."""
    guest = fetched("debian-cloud")
    options = "console=ttyS0 nokaslr"
    with Machine(MachineConfig(guest.path, initrd=guest.initrd, append=options, modules=1)) as machine:
        machine.run_until(text="Run /init")
        entry = machine.modules[0].registers["lstar"]
    assert entry >> 32 == 0xFFFFFFFF
    names = tmp_path / "System.map"
    names.write_text(f"{entry:x} T entry_SYSCALL_64\n")
    arguments = [str(guest.path), "--initrd", str(guest.initrd), "--append", options, "--symbols", str(names)]
    with waiting_for_gdb(tmp_path, *arguments) as (address, process):
        said = gdb(
            address,
            'monitor run until text "Run /init"',
            "monitor run until entry_SYSCALL_64",
            "monitor disas -n 1",
            "maintenance flush register-cache",
            "info registers rip",
            "stepi",
            "stepi",
            "info registers rip",
            f"hbreak *{entry:#x}",
            "reverse-continue",
            "info registers rip",
            "set {char}($rsp - 64) = 0x41",
            "x/1xb $rsp - 64",
            "stepi",
            "stepi",
            "kill",
        )
        process.wait(WAIT_S)
    first, later, again = addresses(said)
    assert int(first, 16) == int(again, 16) == entry != int(later, 16), said
    assert "entry_SYSCALL_64" in said and re.search(r":\s+0x41", said)


@pytest.mark.parametrize("address", ["", "x", "99999", "host:", ":-1"])
def test_addresses_that_are_none_are_refused(address: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ftvm", "run", "hello", "--gdb", address], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "address" in done.stderr and "Traceback" not in done.stderr
