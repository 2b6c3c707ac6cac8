"""Kernels that others wrote, unmodified, on two modules in lockstep."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftvm.exitcodes import ExitCode
from ftvm.guests.catalogue import Guest

SESSION = """\
ps
printf hello | md5sum
sleep 1; echo waited $?
awk 'BEGIN { for (i = 1; i <= 1000; i++) s += 1 / i; printf "%.12f\\n", s }'
dmesg | grep -cE 'BUG|Oops|Call Trace|lockup|stall|unchecked MSR'
poweroff -f
"""


def ftvm(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """The exit code of ``ftvm run``, its report, and what came on the serial console."""
    process = subprocess.run(
        [sys.executable, "-m", "ftvm", "run", *arguments, "--json", "-"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert process.stdout, process.stderr
    return process.returncode, json.loads(process.stdout), process.stderr


@pytest.mark.parametrize("name", ["debian-cloud", "debian"])
def test_an_unmodified_linux_answers_a_scripted_session(
    name: str, fetched: Callable[[str], Guest], tmp_path: Path
) -> None:
    fetched(name)
    (tmp_path / "session").write_text(SESSION)
    code, report, console = ftvm(name, "--input", str(tmp_path / "session"), "--timeout", "300")
    assert (code, report["outcome"], report["divergences"]) == (ExitCode.OK, "exit", [])
    for answer in (
        "{init} /bin/sh /init",
        "5d41402abc4b2a76b9719d911017c592",
        "waited 0",
        "7.485470860550",
        "\n0\n",
        "reboot: Power down",
    ):
        assert answer in console.replace("\r", ""), answer


def test_the_same_linux_session_ends_in_the_same_state_whatever_the_epochs_and_modules(
    fetched: Callable[[str], Guest], tmp_path: Path
) -> None:
    fetched("debian-cloud")
    (tmp_path / "session").write_text(SESSION)
    ends = set()
    for modules, epoch in (("1", "1M"), ("2", "77777"), ("3", "3M")):
        options = ("--modules", modules, "--epoch", epoch, "--timeout", "300")
        _, report, _ = ftvm("debian-cloud", "--input", str(tmp_path / "session"), *options)
        ends.add((report["outcome"], report["blocks"], report["state_digest"]))
    assert len(ends) == 1


@pytest.mark.parametrize(
    ("name", "memory", "texts"),
    [
        ("memtest86+", "16M", ["Memtest86+ v6.10", "Status: Testing", "Errors: 0"]),
        ("grub-invaders", "16M", ["-*-", "/ \\"]),
    ],
)
def test_kernels_that_draw_on_the_screen_come_to_their_work(
    name: str, memory: str, texts: list[str], fetched: Callable[[str], Guest], tmp_path: Path
) -> None:
    """They never end by themselves."""
    fetched(name)
    screen = tmp_path / "screen"
    code, _, _ = ftvm(name, "--memory", memory, "--timeout", "60", "--screen", str(screen))
    assert code == ExitCode.TIMEOUT
    shown = screen.read_text()
    for text in texts:
        assert text.lower() in shown.lower(), shown
