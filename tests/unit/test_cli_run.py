"""``ftvm run``: what the command line makes of a machine, and what it makes of the machine's result."""

import io
import json
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from ftvm.cli import _boot, _machine
from ftvm.cli import _frame as cli
from ftvm.display.screen import COLUMNS, ROWS, Screen
from ftvm.errors import FtvmError, HostError, UsageError
from ftvm.exitcodes import ExitCode
from ftvm.guests.catalogue import Guest
from ftvm.machine import MachineConfig, ModuleReport, OnConsole, RunResult
from ftvm.monitor.eventlog import Observer


def result(outcome: str = "exit", exit_code: int | None = None) -> RunResult:
    return RunResult(
        version=1,
        outcome=outcome,
        exit_code=exit_code,
        modules=[ModuleReport(0, "online", 1), ModuleReport(1, "online", 2)],
        sync_points=3,
        blocks=1234567,
        instructions=None,
        divergences=[],
        wall_s=0.5,
        virtual_s=0.1,
        longest_pause_ms=0.2,
        state_digest="00",
    )


class FakeMachine:
    """Says hello and ends as ``ending`` says; the configurations it was given are kept."""

    configs: ClassVar[list[MachineConfig]] = []
    ending: ClassVar[RunResult] = result()
    divergence_text: ClassVar[str | None] = None
    saved_to: ClassVar[Path | None] = None
    not_saved: ClassVar[FtvmError | None] = None

    def __init__(self, config: MachineConfig, on_console: OnConsole, on_event: Observer) -> None:
        self.configs.append(config)
        self._on_console = on_console

    def run(self) -> RunResult:
        self._on_console("serial", b"hello\n")
        self._on_console("debug", b"\x00\r\n")
        return self.ending

    def screen(self) -> Screen:
        return Screen(b"A\x07" + b" \x07" * (ROWS * COLUMNS - 1), None)


GUEST = Guest("tux", Path("/guests/tux"), Path("/guests/initrd"), "console=ttyS0", "linux", "~ # ", "a penguin")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> type[FakeMachine]:
    monkeypatch.setattr(_machine, "Machine", FakeMachine)
    monkeypatch.setattr(_boot.catalogue, "find", lambda name: GUEST if name == GUEST.name else None)
    monkeypatch.setattr(FakeMachine, "configs", [])
    return FakeMachine


def configuration(*arguments: str) -> MachineConfig:
    assert cli.execute(["run", *arguments]) == ExitCode.OK
    (config,) = FakeMachine.configs
    return config


def test_defaults_are_two_modules_and_a_quarter_of_a_gibibyte() -> None:
    config = configuration("kernel.elf")
    assert (config.image, config.modules, config.memory_bytes) == (Path("kernel.elf"), 2, 256 << 20)
    assert (config.interactive, config.real_time, config.protocol) == (False, None, None)


def test_options_reach_the_machine(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"ls\n")
    config = configuration(
        *("kernel.elf", "--initrd", "i", "--append", "a b", "--memory", "64M", "--modules", "3", "--epoch", "77777"),
        *("--stop-on", "login:", "--timeout", "2.5", "--input", str(tmp_path / "keys"), "--input-after", "# "),
        *("--name", "n", "--real-time", "--protocol", "flat", "--module-file", "m1", "--module-file", "m2"),
    )
    assert config == MachineConfig(
        image=Path("kernel.elf"),
        initrd=Path("i"),
        append="a b",
        memory_bytes=64 << 20,
        modules=3,
        epoch_blocks=77777,
        stop_on="login:",
        timeout_s=2.5,
        input=b"ls\n",
        input_after="# ",
        name="n",
        real_time=True,
        protocol="flat",
        module_files=("m1", "m2"),
        save_on_fail_stop=Path("ftvm-n.save"),
    )


def test_a_known_guest_brings_what_it_needs() -> None:
    config = configuration("tux")
    assert (config.image, config.initrd, config.append) == (GUEST.path, GUEST.initrd, "console=ttyS0")
    assert config.protocol == "linux"
    assert config.input_after is None


def test_options_add_to_a_known_guest_s_or_replace_them(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"ls\n")
    config = configuration("tux", "--initrd", "mine", "--append", "quiet", "--input", str(tmp_path / "keys"))
    assert (config.initrd, config.append) == (Path("mine"), "console=ttyS0 quiet")
    assert config.input_after == GUEST.ready


def test_a_path_is_never_taken_for_a_known_guest() -> None:
    assert configuration("./tux").image == Path("./tux")


def test_input_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ps\n")))
    assert configuration("tux", "--input", "-").input == b"ps\n"


def test_the_console_goes_to_standard_output_and_to_a_file_byte_for_byte(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    configuration("kernel", "--console", str(tmp_path / "console"), "--screen", str(tmp_path / "screen"))
    assert capfdbinary.readouterr().out == b"hello\n\x00\r\n"
    assert (tmp_path / "console").read_bytes() == b"hello\n\x00\r\n"
    assert (tmp_path / "screen").read_text() == "A\n" + "\n" * 24


def test_with_json_on_standard_output_nothing_else_is_there(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    configuration("kernel", "--json", "-")
    captured = capfdbinary.readouterr()
    assert json.loads(captured.out)["state_digest"] == "00"
    assert b"hello\n" in captured.err


@pytest.mark.parametrize(
    ("ending", "code", "words"),
    [
        (result(), ExitCode.OK, "exit;"),
        (result(exit_code=0), ExitCode.OK, "exit 0;"),
        (result(exit_code=3), ExitCode.GUEST_FAILURE, "exit 3;"),
        (result("stopped"), ExitCode.OK, "stopped;"),
        (result("timeout"), ExitCode.TIMEOUT, "timeout;"),
        (result("halted"), ExitCode.GUEST_STUCK, "halted;"),
        (result("crash"), ExitCode.GUEST_STUCK, "crash;"),
        (result("fail-stop"), ExitCode.FAIL_STOP, "fail-stop;"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_end_of_the_guest_is_the_exit_code_and_the_last_line(
    ending: RunResult,
    code: ExitCode,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FakeMachine, "ending", ending)
    assert cli.execute(["run", "kernel", "--json", str(tmp_path / "json")]) == code
    assert json.loads((tmp_path / "json").read_text())["outcome"] == ending.outcome
    summary = capsys.readouterr().err.splitlines()[-1]
    assert summary.startswith(f"ftvm: {words}")
    assert "2 modules" in summary
    assert "1,234,567 blocks" in summary


def test_a_divergence_is_reported_to_people_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeMachine, "ending", result("fail-stop"))
    monkeypatch.setattr(FakeMachine, "divergence_text", "rax differs")
    assert cli.execute(["run", "kernel"]) == ExitCode.FAIL_STOP
    assert "rax differs" in capsys.readouterr().err


def test_a_machine_that_is_to_be_saved_is_saved_there_at_a_fail_stop_too(tmp_path: Path) -> None:
    file = tmp_path / "file"
    config = configuration("kernel", "--save-on-exit", str(file))
    assert (config.save_on_exit, config.save_on_fail_stop) == (file, file)


def test_where_the_machine_was_saved_is_said_with_the_command_that_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeMachine, "ending", result("fail-stop"))
    monkeypatch.setattr(FakeMachine, "saved_to", Path("ftvm-my guest.save"))
    assert cli.execute(["run", "kernel", "--name", "my guest"]) == ExitCode.FAIL_STOP
    assert "ftvm resume 'ftvm-my guest.save'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("outcome", "trouble", "code"),
    [
        ("exit", UsageError("the guest ended"), ExitCode.OK),
        ("timeout", HostError("the disk is full"), ExitCode.HOST),
        ("fail-stop", HostError("the disk is full"), ExitCode.FAIL_STOP),
    ],
)
def test_a_machine_that_is_not_saved_says_why_and_the_report_is_there_all_the_same(
    outcome: str,
    trouble: FtvmError,
    code: ExitCode,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FakeMachine, "ending", result(outcome))
    monkeypatch.setattr(FakeMachine, "not_saved", trouble)
    report = tmp_path / "json"
    assert cli.execute(["run", "kernel", "--save-on-exit", str(tmp_path / "f"), "--json", str(report)]) == code
    assert json.loads(report.read_text())["outcome"] == outcome
    assert trouble.message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--memory", "1K"], ExitCode.USAGE, "1K"),
        (["--memory", "9999G"], ExitCode.USAGE, "9999G"),
        (["--memory", "much"], ExitCode.USAGE, "much"),
        (["--memory", "-1M"], ExitCode.USAGE, "-1M"),
        (["--modules", "0"], ExitCode.USAGE, "0 modules"),
        (["--modules", "4"], ExitCode.USAGE, "4 modules"),
        (["--modules", "two"], ExitCode.USAGE, "two"),
        (["--epoch", "0"], ExitCode.USAGE, "0 blocks"),
        (["--epoch", "soon"], ExitCode.USAGE, "soon"),
        (["--timeout", "0"], ExitCode.USAGE, "0 seconds"),
        (["--timeout", "-1"], ExitCode.USAGE, "-1 seconds"),
        (["--timeout", "nan"], ExitCode.USAGE, "nan seconds"),
        (["--timeout", "inf"], ExitCode.USAGE, "inf seconds"),
        (["--protocol", "zx81"], ExitCode.USAGE, "zx81"),
        (["--input-after", "# "], ExitCode.USAGE, "no input"),
        (["--input", "-", "--interactive"], ExitCode.USAGE, "standard input"),
        (["--input", "/nowhere/keys"], ExitCode.UNUSABLE_FILE, "/nowhere/keys"),
        (["--input", "/"], ExitCode.UNUSABLE_FILE, "/"),
        (["--json", "/nowhere/result"], ExitCode.HOST, "/nowhere/result"),
        (["--console", "/nowhere/log"], ExitCode.HOST, "/nowhere/log"),
        (["--screen", "/"], ExitCode.HOST, "/"),
        (["--save-on-exit", "/nowhere/file"], ExitCode.HOST, "/nowhere/file"),
        (["--save-on-exit", "/dev/null"], ExitCode.HOST, "/dev/null"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_refused_in_one_line_before_anything_starts(
    arguments: list[str], code: ExitCode, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.execute(["run", "kernel", *arguments]) == code
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert words in error
    assert hint.startswith("hint: ")
    assert FakeMachine.configs == []
