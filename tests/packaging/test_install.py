"""What a user without the repository gets: an sdist that is complete, a wheel that travels, a command that runs."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MADE = (".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", "*.so", "*.o", ".*_cache", ".hypothesis")

pytestmark = pytest.mark.timeout(900)


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, in an environment that knows nothing of the repository."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    finished = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as it is committed: without anything that was built."""
    folder = tmp_path_factory.mktemp("export") / "ftvm-source"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*MADE))
    shutil.rmtree(folder / "ftvm" / "firmware", ignore_errors=True)
    return folder


@pytest.fixture(scope="module")
def sdist(export: Path) -> Path:
    run(sys.executable, "setup.py", "--quiet", "sdist", cwd=export)
    (archive,) = (export / "dist").glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(sdist: Path, environment: Path) -> Path:
    """Built from the sdist alone, as pip does it for a user: with the build requirements that we name, no others."""
    run(environment / "bin/pip", "wheel", "--quiet", "--no-deps", sdist, cwd=environment)
    (built,) = environment.glob("*.whl")
    return built


def test_the_sdist_has_every_source_file(sdist: Path, export: Path) -> None:
    with tarfile.open(sdist) as archive:
        packed = {Path(*Path(member.name).parts[1:]) for member in archive.getmembers() if member.isfile()}
    folders = ("ftvm", "native", "firmware", "tests", "benchmarks", "docs", ".ci")
    sources = {
        path.relative_to(export) for folder in folders for path in (export / folder).rglob("*") if path.is_file()
    }
    assert sources - packed == set()
    assert {Path(name) for name in ("LICENSE", "Makefile", "README.md", "CHANGELOG.md")} <= packed


def test_the_wheel_says_what_it_runs_on(wheel: Path) -> None:
    assert "-cp311-abi3-linux_x86_64" in wheel.name


def test_the_wheel_names_no_folder_of_the_machine_that_built_it(wheel: Path, environment: Path) -> None:
    foreign = [str(ROOT), str(environment), "pip-build-env", "pip-req-build", "pip-wheel"]
    with zipfile.ZipFile(wheel) as archive:
        named = {
            (member, folder)
            for member in archive.namelist()
            for folder in foreign
            if folder.encode() in archive.read(member)
        }
    assert named == set()


def test_the_wheel_has_the_guest_code_and_no_leftovers_of_its_making(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        members = archive.namelist()
    assert "ftvm/firmware/kernels/hello.elf" in members
    assert any(member.startswith("ftvm/firmware/stubs/") for member in members)
    sources = [member for member in members if member.endswith((".o", ".d", ".a", ".c"))]
    assert sources == ["ftvm/benchmarks/randio.c"]  # a program of a benchmark, compiled where that runs
    assert not [member for member in members if member.startswith(("tests/", "native/", "firmware/"))]


def test_the_installed_command_boots_a_kernel_in_lockstep(wheel: Path, environment: Path) -> None:
    run(environment / "bin/pip", "install", "--quiet", wheel, cwd=environment)
    ftvm = environment / "bin/ftvm"
    assert "hello" in run(ftvm, "guests", "list", cwd=environment)
    assert "Hello" in run(ftvm, "run", "hello", cwd=environment)
    assert "faults" in run(ftvm, "bench", "--list", cwd=environment)


FAKE_COMPILER = """#!/bin/sh
if grep -q Python.h; then echo 'fatal error: Python.h: No such file or directory' >&2; exit 1; fi
"""


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"PATH": "/nowhere"}, "the program 'make' is missing; install it (Debian: apt-get install make)"),
        ({"CC": "no-such-cc"}, "the program 'no-such-cc' is missing; install it (Debian: apt-get install gcc)"),
        ({"CC": "./fake-cc"}, "the header <Python.h> is missing; install it (Debian: apt-get install python3-dev)"),
    ],
    ids=["make", "compiler", "header"],
)
def test_what_is_missing_for_the_build_is_said_in_one_sentence(
    export: Path, changed: dict[str, str], sentence: str
) -> None:
    (export / "fake-cc").write_text(FAKE_COMPILER)
    (export / "fake-cc").chmod(0o755)
    command = [sys.executable, "setup.py", "--quiet", "build"]
    environment = os.environ | changed
    finished = subprocess.run(command, cwd=export, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1] == f"error: ftvm cannot be built: {sentence}"
