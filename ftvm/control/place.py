"""Where the control sockets of running machines are, whose they are, and which of them still live.

Each machine has ``NAME.sock`` in a folder that only its user can enter: ``$XDG_RUNTIME_DIR/ftvm``, or
``/tmp/ftvm-UID/ftvm`` where the user has no such directory (XDG Base Directory Specification).
"""

import contextlib
import fcntl
import os
import re
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ftvm.errors import HostError, UsageError

SUFFIX = ".sock"
MAX_PATH_BYTES = 107
"""Of a Unix socket's path: sun_path less its final zero (unix(7))."""
BACKLOG = 16

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CREDENTIALS = struct.Struct("iII")  # struct ucred: process, user, group


class Running(msgspec.Struct, frozen=True):
    """A machine that can be talked to, as ``ftvm ctl --json`` lists it."""

    name: str
    pid: int


class NotRunning(UsageError):
    """Nobody listens under this name."""


def check_name(name: str) -> str:
    """``name``, if a machine can have it. Raises UsageError."""
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} cannot be the name of a machine",
            "use up to 64 letters, digits, '.', '_' and '-', and begin with a letter or digit",
        )
    return name


def folder() -> Path:
    """The folder of this user's sockets; it need not exist."""
    return (_runtime_directory() or _replacement()) / "ftvm"


def _runtime_directory() -> Path | None:
    base = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    try:
        return base if base.is_absolute() and base.stat().st_uid == os.geteuid() else None
    except OSError:
        return None


def _replacement() -> Path:
    return Path(f"/tmp/ftvm-{os.geteuid()}")


def socket_path(name: str) -> Path:
    """Raises UsageError for a name that cannot be, HostError when the path is longer than a socket's may be."""
    path = folder() / (check_name(name) + SUFFIX)
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise HostError(f"the path of the control socket is too long: {path}", "give the machine a shorter --name")
    return path


def peer(connection: socket.socket) -> tuple[int, int]:
    """(process, user) at the other end: for a client, of the one that listens."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    return pid, uid


def connect(path: Path) -> socket.socket:
    """A connection that does not block; the machine may be too busy to accept it yet.

    Raises NotRunning, and HostError for a machine that cannot be reached.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connection.connect(os.fspath(path))
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        raise NotRunning(f"no machine named {path.name.removesuffix(SUFFIX)!r} is running") from None
    except BlockingIOError:
        connection.close()
        raise HostError(
            f"{path}: too many are waiting to be let in", "the machine may be stopped; look at its process"
        ) from None
    except OSError as error:
        connection.close()
        raise HostError(
            f"{path} cannot be reached: {error.strerror}", "a machine is managed by the user who started it"
        ) from None
    return connection


def running() -> list[Running]:
    """All machines of this user, by name."""
    found = []
    for path in sorted(folder().glob(f"*{SUFFIX}")):
        with contextlib.suppress(NotRunning, HostError), connect(path) as connection:
            found.append(Running(path.name.removesuffix(SUFFIX), peer(connection)[0]))
    return found


class Claim:
    """The name of a machine, and the socket that listens under it. ``close`` gives the name back.

    Raises UsageError for a name that cannot be, or that a living machine has; HostError when the host refuses.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = socket_path(name)
        if _runtime_directory() is None:
            _make_private(_replacement())
        _make_private(self.path.parent)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with _locked(self.path.parent):
                _sweep(self.path.parent)
                if self.path.exists():
                    raise UsageError(f"a machine named {name!r} is running already", "give this one another --name")
                os.fchmod(self.listener.fileno(), 0o600)  # what bind() creates gets the mode of the socket
                self.listener.bind(os.fspath(self.path))
                self.listener.listen(BACKLOG)
        except OSError as error:
            self.listener.close()
            raise HostError(f"no control socket {self.path}: {error.strerror}") from error
        except UsageError:
            self.listener.close()
            raise

    def close(self) -> None:
        with contextlib.suppress(OSError), _locked(self.path.parent):  # the user may have removed the folder
            self.path.unlink(missing_ok=True)  # first: while somebody listens, nobody else takes the name
        self.listener.close()


def _make_private(place: Path) -> None:
    """Create a folder that is nobody else's; refuse one that somebody else prepared. Raises HostError."""
    try:
        with contextlib.suppress(FileExistsError):
            place.mkdir(mode=0o700)
        status = place.lstat()
    except OSError as error:
        raise HostError(f"no folder {place} for control sockets: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise HostError(f"{place} is not a folder of this user alone", "remove it, or set XDG_RUNTIME_DIR")


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """One at a time looks for dead sockets and binds new ones; else one could remove what another just made."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _sweep(place: Path) -> None:
    """Remove the sockets of processes that were killed."""
    for path in place.glob(f"*{SUFFIX}"):
        try:
            with contextlib.suppress(HostError):
                connect(path).close()
        except NotRunning:
            path.unlink(missing_ok=True)
