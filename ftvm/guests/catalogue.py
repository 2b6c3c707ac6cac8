"""Which guests can be booted by name, and how.

The project's own kernels lie in the package (``firmware/kernels``), each with a NAME.toml; a fetched guest has a folder
of its own in the cache: kernel, initrd (Linux only) and a manifest.
"""

import os
import tomllib
from pathlib import Path

import msgspec

from ftvm.errors import HostError

OWN_KERNELS = Path(__file__).parent.parent / "firmware" / "kernels"
MANIFEST = "guest.json"
KERNEL = "kernel"
INITRD = "initrd"


class Guest(msgspec.Struct, frozen=True):
    """What ``ftvm guests list --json`` shows of a guest.

    ``kind`` is its boot protocol (BootPlan.kind). ``append`` is the command line it needs at least; ``ready`` is the
    console text after which it reads its console, None for a guest that does not, or that does from the start.
    """

    name: str
    path: Path
    initrd: Path | None
    append: str
    kind: str
    ready: str | None
    description: str


class Manifest(msgspec.Struct, frozen=True):
    """Lies beside a fetched guest. ``made_of`` names every ingredient with its version: equal ones, equal guests."""

    version: int
    made_of: dict[str, str]
    append: str
    kind: str
    ready: str | None
    description: str


MANIFEST_VERSION = 1


def cache() -> Path:
    """The folder of everything that can be fetched again: ``$XDG_CACHE_HOME/ftvm``, by default ``~/.cache/ftvm``.

    Source: XDG Base Directory Specification, which says to ignore a relative path. Raises HostError without a home.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            raise HostError("there is no home directory for the cache", "set HOME or XDG_CACHE_HOME") from None
    return base / "ftvm"


def available() -> list[Guest]:
    """All guests that can be booted now: the project's own first, then the fetched ones, each by name."""
    own = [_own(path) for path in sorted(OWN_KERNELS.glob("*.toml"))]
    fetched = [_fetched(path.parent.name) for path in sorted((cache() / "guests").glob(f"*/{MANIFEST}"))]
    return own + [guest for guest in fetched if guest is not None]


def find(name: str) -> Guest | None:
    """The guest of that name, if it can be booted now."""
    return next((guest for guest in available() if guest.name == name), None)


def guest_folder(name: str) -> Path:
    return cache() / "guests" / name


def read_manifest(name: str) -> Manifest | None:
    """None when ``name`` was never fetched, or by a version of ftvm that wrote another format."""
    try:
        manifest = msgspec.json.decode((guest_folder(name) / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None
    return manifest if manifest.version == MANIFEST_VERSION else None


def _fetched(name: str) -> Guest | None:
    manifest = read_manifest(name)
    if manifest is None:
        return None
    folder = guest_folder(name)
    initrd = folder / INITRD
    return Guest(
        name=name,
        path=folder / KERNEL,
        initrd=initrd if initrd.exists() else None,
        append=manifest.append,
        kind=manifest.kind,
        ready=manifest.ready,
        description=manifest.description,
    )


def _own(description: Path) -> Guest:
    """One of the project's kernels, from its NAME.toml, with NAME.elf beside it."""
    table = tomllib.loads(description.read_text())
    return Guest(
        name=description.stem,
        path=description.with_suffix(".elf"),
        initrd=None,
        append=table.get("append", ""),
        kind=table.get("kind", "multiboot1"),
        ready=table.get("ready"),
        description=table["description"],
    )
