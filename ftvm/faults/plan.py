"""Plans of faults: TOML files, described in docs/fault-plans.md."""

import tomllib
from pathlib import Path
from typing import Any

from ftvm.errors import FtvmError, UnusableFile
from ftvm.faults.notation import FieldError, Guest, fault_of
from ftvm.faults.toml_lines import TomlLines
from ftvm.module.fault import Fault

PLAN_VERSION = 1
MAX_FAULTS = 1000
MAX_PLAN_BYTES = 1 << 20

_HINT = "docs/fault-plans.md describes every field"


def load_plan(path: Path, guest: Guest) -> list[Fault]:
    """The faults of a plan. Raises UnusableFile, which names the line and the field."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnusableFile(
            f"the plan {path} cannot be read: {error.strerror}", "give the path of a TOML file"
        ) from None
    if len(data) > MAX_PLAN_BYTES:
        raise UnusableFile(
            f"the plan {path} has more than {MAX_PLAN_BYTES} bytes", f"up to {MAX_FAULTS} faults are meant"
        )
    try:
        return parse_plan(data.decode(), str(path), guest)
    except UnicodeDecodeError as error:
        raise UnusableFile(f"{path}: byte {error.start} is not UTF-8", "TOML is UTF-8") from None


def parse_plan(text: str, name: str, guest: Guest) -> list[Fault]:
    """The same for a plan's text; errors call it ``name``."""
    try:
        plan = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UnusableFile(f"{name}: {error}", "this is not TOML") from None
    except RecursionError:
        raise UnusableFile(f"{name}: arrays in arrays, without end", _HINT) from None
    return _Plan(plan, name, TomlLines(text), guest).faults()


class _Plan:
    def __init__(self, plan: dict[str, Any], name: str, lines: TomlLines, guest: Guest) -> None:
        self._plan = plan
        self._name = name
        self._lines = lines
        self._guest = guest

    def faults(self) -> list[Fault]:
        if self._plan.get("version") != PLAN_VERSION or isinstance(self._plan["version"], bool):
            raise self._error(("version",), "field version", f"this ftvm reads version = {PLAN_VERSION}", _HINT)
        for field in self._plan:
            if field not in ("version", "seed", "fault"):
                raise self._error((field,), f"field {field}", "it means nothing here", _HINT)
        seed = self._plan.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise self._error(("seed",), "field seed", f"{seed!r} is not a whole number")
        faults = self._plan.get("fault", [])
        if not isinstance(faults, list) or not faults or not all(isinstance(fault, dict) for fault in faults):
            raise self._error(("fault",), "field fault", "there is no fault", "write each under a line [[fault]]")
        if len(faults) > MAX_FAULTS:
            raise self._error(("fault",), "field fault", f"{len(faults)} faults", f"give up to {MAX_FAULTS}")
        return [self._fault(index, fields, seed) for index, fields in enumerate(faults)]

    def _fault(self, index: int, fields: dict[str, Any], seed: int) -> Fault:
        for field, value in fields.items():
            if not isinstance(value, int | float | str):
                raise self._error(
                    ("fault", index, field), f"fault {index + 1}, field {field}", "it has one value", _HINT
                )
        try:
            return fault_of(fields, self._guest, f"{seed}/{index}")
        except FieldError as error:
            path = ("fault", index, error.field) if error.field else ("fault", index)
            what = f"fault {index + 1}, field {error.field}" if error.field else f"fault {index + 1}"
            raise self._error(path, what, error.message, error.hint) from None

    def _error(self, path: tuple[str | int, ...], what: str, why: str, hint: str | None = None) -> FtvmError:
        line = self._lines.of(*path)
        where = f"{self._name}:{line}" if line else self._name
        return UnusableFile(f"{where}: {what}: {why}", hint)
