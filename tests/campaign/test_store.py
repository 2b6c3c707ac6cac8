"""The results file: every planned experiment once, whatever happens to whoever writes it."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.campaign.store import Store
from ftvm.errors import FtvmError, HostError, UnusableFile, UsageError
from tests.campaign.plans import experiment, small, trial

COLUMNS = ("duplex", "simplex")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "results.sqlite"
    Store.create(path, {"build": "b"}, small(), [experiment(number) for number in range(5)])
    return path


def test_it_gives_back_what_was_put_in(path: Path) -> None:
    with Store.write(path) as store:
        store.add([trial(0), trial(1, outcome="sdc"), trial(1, "simplex")])
    with Store.read(path) as store:
        assert store.plan == small()
        assert store.facts["build"] == "b"
        assert store.experiments() == [experiment(number) for number in range(5)]
        assert store.experiment(3) == experiment(3)
        assert store.trials() == [trial(0), trial(1, outcome="sdc"), trial(1, "simplex")]
        assert store.trials(1) == [trial(1, outcome="sdc"), trial(1, "simplex")]


def test_it_knows_what_is_missing(path: Path) -> None:
    with Store.write(path) as store:
        store.add([trial(0), trial(0, "simplex"), trial(2)])
        assert store.missing(COLUMNS) == {
            1: ("duplex", "simplex"),
            2: ("simplex",),
            3: ("duplex", "simplex"),
            4: ("duplex", "simplex"),
        }
        assert store.planned() == 5


@pytest.mark.parametrize("number", [0, 99])
def test_a_result_that_is_there_or_was_not_planned_is_refused_with_all_beside_it(path: Path, number: int) -> None:
    with Store.write(path) as store:
        store.add([trial(0)])
        with pytest.raises(UnusableFile, match="already, or was not planned"):
            store.add([trial(1), trial(number)])
        assert store.trials() == [trial(0)]


def test_it_has_one_writer(path: Path) -> None:
    with Store.write(path), pytest.raises(UsageError, match="another campaign process"):
        Store.write(path)
    with Store.write(path) as store:
        store.add([trial(0)])


def test_it_can_be_read_while_it_is_written(path: Path) -> None:
    with Store.write(path) as writer, Store.read(path) as reader:
        writer.add([trial(0)])
        assert reader.trials() == [trial(0)]


def test_what_a_killed_writer_left_half_done_is_rolled_back_by_whoever_looks(path: Path) -> None:
    writer = (
        "import os, signal, sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1])\n"
        "connection.execute('PRAGMA cache_size = 1')\n"
        "connection.execute('BEGIN')\n"
        "connection.execute('CREATE TABLE much AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
        " WHERE i < 5000) SELECT i, hex(randomblob(100)) AS x FROM n')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", writer, str(path)], check=False)
    assert path.with_name(f"{path.name}-journal").exists()
    with Store.read(path) as store:
        assert store.experiments() == [experiment(number) for number in range(5)]
        with pytest.raises(HostError):
            store.add([trial(0)])


def test_it_is_never_made_over_another_one(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(UsageError, match="there already"):
        Store.create(path, {}, small(), [])
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_it_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    def failing() -> object:
        yield experiment(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store.create(tmp_path / "results.sqlite", {}, small(), failing())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_results_file_is_refused(tmp_path: Path, path: Path) -> None:
    with pytest.raises(UnusableFile, match="no results file"):
        Store.read(tmp_path / "none")
    other = tmp_path / "other"
    other.write_text("not a database, but long enough to be looked at" * 100)
    with pytest.raises(UnusableFile, match="not a results file"):
        Store.read(other)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(UnusableFile, match="version"):
        Store.read(path)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_damaged_file_is_a_clear_error(tmp_path_factory: pytest.TempPathFactory, place: int, value: int) -> None:
    path = tmp_path_factory.mktemp("store") / "results.sqlite"
    Store.create(path, {}, small(), [experiment(number) for number in range(5)])
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(content)
    try:
        with Store.read(path) as store:
            store.plan  # noqa: B018
            store.experiments()
            store.missing(COLUMNS)
    except FtvmError as error:
        assert str(path) in error.message
