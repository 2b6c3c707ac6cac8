"""Imports point one way: a room knows the rooms below it, and never one above."""

import ast
from pathlib import Path

import pytest

import ftvm

PACKAGE = Path(ftvm.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# From the bottom to the top. Rooms on one line may know each other.
LAYERS = (
    ("", "units", "errors", "exitcodes", "memory_map", "platform_ports", "legs", "charts", "terminal", "_native"),
    ("boot", "storage", "network"),
    ("module",),
    ("monitor", "display"),
    ("faults",),
    ("control",),
    ("config", "result", "machine", "management", "injection", "saving"),
    ("debug",),
    ("guests",),
    ("campaign", "bench"),
    ("cli", "pytest_plugin"),
    ("__main__",),
)
HEIGHT = {room: height for height, layer in enumerate(LAYERS) for room in layer}

# What would let two modules see different worlds.
UNREPEATABLE = {"datetime", "random", "secrets", "tempfile", "time", "uuid"}
OUTSIDE = UNREPEATABLE | {
    "asyncio",
    "io",
    "multiprocessing",
    "os",
    "pathlib",
    "select",
    "socket",
    "subprocess",
    "threading",
}


def room(dotted: str) -> str:
    """``ftvm.module.board`` is in the room ``module``; ``ftvm`` itself is ground, and has no name."""
    return dotted.split(".")[1] if "." in dotted else ""


def imports(path: Path) -> set[str]:
    """Every module that the file imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            # 'from ftvm import _native' is about the room, not about the package.
            names = {f"ftvm.{alias.name}" for alias in node.names} if node.module == "ftvm" else {node.module}
            found |= {name for name in names if name not in ("ftvm.__version__",)}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_its_own_room_and_those_below(path: Path) -> None:
    own = room(".".join(["ftvm", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"))
    assert own in HEIGHT, f"{own!r} is a new room: say in LAYERS where it stands"
    above = {name for name in imports(path) if name.startswith("ftvm") and HEIGHT[room(name)] > HEIGHT[own]}
    assert not above


@pytest.mark.parametrize("path", sorted((PACKAGE / "module").rglob("*.py")), ids=lambda path: path.name)
def test_a_module_has_no_way_to_a_clock_or_to_chance(path: Path) -> None:
    assert not {name.partition(".")[0] for name in imports(path)} & UNREPEATABLE


@pytest.mark.parametrize("path", sorted((PACKAGE / "module" / "chips").glob("*.py")), ids=lambda path: path.name)
def test_a_chip_has_no_way_to_the_host(path: Path) -> None:
    assert not {name.partition(".")[0] for name in imports(path)} & OUTSIDE
