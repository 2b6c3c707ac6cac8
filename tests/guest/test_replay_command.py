"""``ftvm run --record`` and ``ftvm replay`` as a user meets them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest


def ftvm(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "ftvm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=240, stdin=subprocess.DEVNULL, **options)  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    done = ftvm("run", "hello", "--record", folder / "run", "--json", folder / "json", "--console", folder / "console")
    assert done.returncode == 0, done.stderr
    return folder


def test_a_replay_shows_and_reports_the_recorded_run(recorded: Path, tmp_path: Path) -> None:
    done = ftvm("replay", recorded / "run", "--modules", "1", "--epoch", "5k", "--json", tmp_path / "json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (recorded / "console").read_bytes()
    run, again = json.loads((recorded / "json").read_text()), json.loads((tmp_path / "json").read_text())
    assert again["complete"] is True
    for key in ("state_digest", "outcome", "exit_code", "blocks", "virtual_s"):
        assert again[key] == run[key]


def test_with_the_report_on_standard_output_the_console_makes_room(recorded: Path) -> None:
    done = ftvm("replay", recorded / "run", "--json", "-")
    assert json.loads(done.stdout)["outcome"] == "exit"
    assert (recorded / "console").read_bytes() in done.stderr


def test_a_file_that_was_cut_off_is_refused_and_replayed_on_request(recorded: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes((recorded / "run").read_bytes()[:-1])
    done = ftvm("replay", cut)
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.splitlines()[0].startswith(b"error: ") and b"--partial" in done.stderr
    assert ftvm("replay", cut, "--partial").returncode == 0


@pytest.mark.parametrize("wrong", [b"", b"no recording", b"FTVMRECD"])
def test_what_is_no_recording_is_refused(wrong: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(wrong)
    done = ftvm("replay", tmp_path / "file")
    assert done.returncode == 3
    assert done.stderr.startswith(b"error: ") and b"Traceback" not in done.stderr


def test_a_recording_that_cannot_be_written_is_refused_before_the_guest_runs(tmp_path: Path) -> None:
    done = ftvm("run", "hello", "--record", tmp_path / "no folder" / "run")
    assert (done.returncode, done.stdout) == (4, b"")


def test_a_run_that_was_killed_is_replayed_as_far_as_it_came(tmp_path: Path) -> None:
    file = tmp_path / "run"
    command = [sys.executable, "-m", "ftvm", "run", "workload", "--append", "rounds=100000", "--record", str(file)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as running:
        try:
            while not (file.exists() and b"mark" in file.read_bytes()[-200:]):
                assert running.poll() is None
                time.sleep(0.05)
        finally:
            running.kill()
    assert ftvm("replay", file).returncode == 3
    done = ftvm("replay", file, "--partial", "--modules", "1", "--json", tmp_path / "json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "json").read_text())
    assert (result["outcome"], result["complete"]) == ("cut-off", True)
    assert result["compared"] >= 1


def test_a_machine_that_goes_on_can_be_recorded(tmp_path: Path) -> None:
    saved, file = tmp_path / "saved", tmp_path / "run"
    assert ftvm("run", "workload", "--stop-on", "sieve", "--save-on-exit", saved).returncode == 0
    done = ftvm("resume", saved, "--record", file, "--json", tmp_path / "first")
    assert done.returncode == 0, done.stderr
    again = ftvm("replay", file, "--json", tmp_path / "second")
    assert (again.returncode, again.stdout) == (0, done.stdout)
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("first", "second"))
    assert second["state_digest"] == first["state_digest"]
