"""The results file: one SQLite database with the plan, every planned experiment, and what came of each.

It has one writer at a time. It appears in one piece, when all experiments are planned; from then on each transaction
adds whole results, so that a killed campaign resumes with exactly what is missing. docs/campaign-results.md describes
the tables.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ftvm.campaign.experiment import Experiment, Trial
from ftvm.campaign.plan import CampaignPlan, Column, decode_plan
from ftvm.errors import HostError, UnusableFile, UsageError

STORE_VERSION = 1
"""In the database's user_version."""
APPLICATION_ID = 0x6674766D  # "ftvm"

_TYPES = {int: "INTEGER", float: "REAL", str: "TEXT", bytes: "BLOB", bool: "INTEGER"}
_KEYS = {"experiment": ["id"], "trial": ["experiment", "column"]}
T = TypeVar("T", Experiment, Trial)


def _table(name: str, row: type[msgspec.Struct]) -> str:
    """A table with a column for each field. A field that may be None may be NULL."""
    columns = []
    for field in msgspec.structs.fields(row):
        options = set(getattr(field.type, "__args__", (field.type,)))
        (kind,) = {_TYPES.get(option, "TEXT") for option in options - {type(None)}}
        columns.append(f'"{field.name}" {kind}{"" if type(None) in options else " NOT NULL"}')
    reference = ", FOREIGN KEY (experiment) REFERENCES experiment (id)" if name == "trial" else ""
    key = ", ".join(f'"{column}"' for column in _KEYS[name])
    return f"CREATE TABLE {name} ({', '.join(columns)}, PRIMARY KEY ({key}){reference}) WITHOUT ROWID"


_SCHEMA = (
    "CREATE TABLE campaign (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    _table("experiment", Experiment),
    _table("trial", Trial),
)


def _insert(row: type[msgspec.Struct]) -> str:
    names = row.__struct_fields__
    columns = ", ".join(f'"{name}"' for name in names)
    return f"INSERT INTO {row.__name__.lower()} ({columns}) VALUES ({', '.join('?' * len(names))})"


class Store:
    """An open results file. Use as a context manager; raises UnusableFile for what is none, HostError when the host
    refuses to write."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int | None = None) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock

    @classmethod
    def create(
        cls, path: Path, facts: Mapping[str, str], plan: CampaignPlan, experiments: Iterable[Experiment]
    ) -> None:
        """Make the file, complete with everything that is planned. Raises UsageError when there is one already."""
        cls.refuse_existing(path)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with contextlib.closing(sqlite3.connect(unfinished)) as connection, connection:
                connection.execute(f"PRAGMA user_version = {STORE_VERSION}")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                for statement in _SCHEMA:
                    connection.execute(statement)
                everything = {**facts, "plan": msgspec.json.encode(plan).decode()}
                connection.executemany("INSERT INTO campaign VALUES (?, ?)", everything.items())
                connection.executemany(_insert(Experiment), map(msgspec.structs.astuple, experiments))
            os.link(unfinished, path)  # unlike a rename, never over another one's
        except FileExistsError:
            cls.refuse_existing(path)
        except (sqlite3.Error, OSError) as error:
            raise HostError(f"{path} cannot be written: {error}", "give --out a path that can be written") from None
        finally:
            unfinished.unlink(missing_ok=True)

    @staticmethod
    def refuse_existing(path: Path) -> None:
        """Raises UsageError when there is such a file already."""
        if path.exists():
            raise UsageError(f"{path} is there already", f"go on with it: ftvm campaign resume {path}")

    @classmethod
    def read(cls, path: Path) -> "Store":
        """To look at; also while a campaign writes it."""
        return cls(path, _open(path, only_read=True))

    @classmethod
    def write(cls, path: Path) -> "Store":
        """To add to it. Raises UsageError while somebody else does."""
        connection = _open(path, only_read=False)
        # SQLite's own locks are of another kind; closing this descriptor would drop them, so it lives as long.
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            connection.close()
            os.close(lock)
            raise UsageError(f"{path} is being written by another campaign process", "wait for it to end") from None
        return cls(path, connection, lock)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)

    # ---- writing ----

    def add(self, trials: Iterable[Trial]) -> None:
        """In one transaction. An experiment that has this column's result already is a defect: UnusableFile."""
        try:
            with self._connection:
                self._connection.executemany(_insert(Trial), map(msgspec.structs.astuple, trials))
        except sqlite3.IntegrityError as error:
            raise UnusableFile(f"{self.path}: a result that is there already, or was not planned: {error}") from None
        except sqlite3.Error as error:
            raise HostError(f"{self.path} cannot be written: {error}", "what was written before is kept") from None

    # ---- reading ----

    @property
    def facts(self) -> dict[str, str]:
        """What is known about the campaign: name and version of what made it, when, and the golden runs."""
        return dict(self._rows("SELECT key, value FROM campaign"))

    @property
    def plan(self) -> CampaignPlan:
        facts = self.facts
        try:
            return decode_plan(msgspec.json.decode(facts["plan"]), f"{self.path}: the plan in it")
        except (KeyError, msgspec.DecodeError) as error:
            raise UnusableFile(f"{self.path}: no plan in it: {error}") from None

    def planned(self) -> int:
        """Number of experiments."""
        return int(next(self._rows("SELECT count(*) FROM experiment"))[0])

    def missing(self, columns: Iterable[Column]) -> dict[int, tuple[Column, ...]]:
        """For each experiment that is not over, the columns without a result."""
        wanted: dict[int, tuple[Column, ...]] = {}
        for column in columns:
            query = 'SELECT id FROM experiment EXCEPT SELECT experiment FROM trial WHERE "column" = ?'
            for (number,) in self._rows(query, column):
                wanted[number] = (*wanted.get(number, ()), column)
        return wanted

    def experiments(self) -> list[Experiment]:
        """All that were planned, by number."""
        return self._structs(Experiment, "ORDER BY id")

    def experiment(self, number: int) -> Experiment:
        """Raises UsageError for a number that is not there."""
        found = self._structs(Experiment, "WHERE id = ?", number)
        if not found:
            raise UsageError(f"there is no experiment {number}", f"{self.path} has 0 to {self.planned() - 1}")
        return found[0]

    def trials(self, experiment: int | None = None) -> list[Trial]:
        """All results, or those of one experiment."""
        if experiment is None:
            return self._structs(Trial, 'ORDER BY experiment, "column"')
        return self._structs(Trial, 'WHERE experiment = ? ORDER BY "column"', experiment)

    def _structs(self, row: type[T], condition: str, *values: object) -> list[T]:
        columns = ", ".join(f'"{name}"' for name in row.__struct_fields__)
        names = row.__struct_fields__
        query = f"SELECT {columns} FROM {row.__name__.lower()} {condition}"
        try:
            return [
                msgspec.convert(dict(zip(names, values, strict=True)), row, strict=False)
                for values in self._rows(query, *values)
            ]
        except msgspec.ValidationError as error:
            raise UnusableFile(f"{self.path}: table {row.__name__.lower()}: {error}") from None

    def _rows(self, query: str, *values: object) -> Iterator[Any]:
        try:
            yield from self._connection.execute(query, values)
        except sqlite3.Error as error:
            raise UnusableFile(f"{self.path} is damaged: {error}") from None


def _open(path: Path, only_read: bool) -> sqlite3.Connection:
    """Whoever only reads may still have to roll back what a killed writer left half done; where the file is not theirs
    to write, SQLite opens it for reading."""
    if not path.is_file():
        raise UnusableFile(f"there is no results file {path}", "ftvm campaign run PLAN --out FILE makes one")
    uri = f"{path.absolute().as_uri()}?mode=rw"
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=60.0)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        made_by = connection.execute("PRAGMA application_id").fetchone()[0]
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA query_only = {int(only_read)}")
    except sqlite3.Error as error:
        raise UnusableFile(f"{path} is not a results file: {error}") from None
    if (made_by, version) != (APPLICATION_ID, STORE_VERSION):
        connection.close()
        raise UnusableFile(
            f"{path} is not a results file of this version of ftvm", f"this ftvm reads version {STORE_VERSION}"
        )
    return connection
