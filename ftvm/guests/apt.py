"""Packages through the system's own apt, without installing anything and without root.

The system's package lists are used where they know a package; where they do not, or are out of date, a private copy
is updated and used instead, since only root may update the system's.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ftvm.errors import HostError


@dataclass(frozen=True)
class Package:
    """A package in the version that apt would install; ``depends`` is the field as the archive has it."""

    name: str
    version: str
    depends: str


class Apt:
    """``state`` is a folder for the private package lists."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._updated = False
        # apt as root fetches as the user _apt, who cannot write to our folders.
        self._options = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []

    def newest(self, name: str) -> Package:
        """Raises HostError when no package list knows ``name``."""
        package = self._show(name)
        if package is None and not self._updated:
            self._update()
            package = self._show(name)
        if package is None:
            raise HostError(
                f"apt knows no package {name!r}",
                "it is a package of Debian 12; look at /etc/apt/sources.list",
            )
        return package

    def unpack(self, package: Package, folder: Path) -> Package:
        """Download ``package``, unpack its files below ``folder``, and return what it was: the newest, should the
        version asked for have left the archive since the package lists were made."""
        folder.mkdir(parents=True)
        try:
            self._download(package, folder)
        except HostError:
            if self._updated:
                raise
            self._update()
            package = self.newest(package.name)
            self._download(package, folder)
        archive = next(folder.glob("*.deb"))
        _run(["dpkg-deb", "--extract", str(archive), str(folder)], f"dpkg-deb cannot unpack {package.name}")
        archive.unlink()
        return package

    def _show(self, name: str) -> Package | None:
        try:
            text = _run(["apt-cache", *self._options, "show", "--no-all-versions", name], f"apt knows no {name}")
        except _Failed:
            return None
        fields = dict(line.split(": ", 1) for line in text.splitlines() if re.match(r"[A-Z][\w-]*: ", line))
        # apt-cache also succeeds, with nothing to show, for a name that others only refer to.
        return Package(name, fields["Version"], fields.get("Depends", "")) if "Version" in fields else None

    def _download(self, package: Package, folder: Path) -> None:
        wanted = f"{package.name}={package.version}"
        _run(["apt-get", *self._options, "download", wanted], f"apt cannot download {wanted}", folder)

    def _update(self) -> None:
        self._updated = True
        for folder in ("lists/partial", "cache/archives/partial"):
            (self._state / folder).mkdir(parents=True, exist_ok=True)
        self._options += ["-o", f"Dir::State::Lists={self._state}/lists", "-o", f"Dir::Cache={self._state}/cache"]
        # Without this, apt calls a source that cannot be reached a warning.
        command = ["apt-get", *self._options, "-o", "APT::Update::Error-Mode=any", "--quiet", "update"]
        _run(command, "apt cannot update its package lists")


class _Failed(HostError):
    """The program ran, and said no."""


def _run(command: list[str], failure: str, folder: Path | None = None) -> str:
    """Standard output of ``command``. Raises HostError with ``failure`` and the first complaint of the program."""
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        process = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise HostError(
            f"the program {command[0]!r} is missing",
            "guests are fetched with Debian's apt; without it, give 'ftvm run' the path of a kernel",
        ) from None
    if process.returncode != 0:
        complaints = [line for line in process.stderr.splitlines() if line.startswith(("E:", "dpkg"))]
        reason = complaints[0].removeprefix("E:").strip() if complaints else f"exit code {process.returncode}"
        raise _Failed(f"{failure}: {reason}", "look at the network connection and at /etc/apt/sources.list")
    return process.stdout
