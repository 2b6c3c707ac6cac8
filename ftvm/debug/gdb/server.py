"""The connection: wait for gdb, read its packets, answer them, until it goes."""

import contextlib
import re
import socket
from collections import deque
from collections.abc import Iterator

from ftvm.debug.gdb.packets import Reader, Signal, frame
from ftvm.debug.gdb.stub import After, Stub
from ftvm.debug.gdb.target import Target
from ftvm.debug.repl.desk import Desk
from ftvm.errors import HostError, UsageError

RECEIVED_BYTES = 1 << 16
LOOPBACK = "127.0.0.1"
ALIVE_S = 0.5


def parse_address(text: str) -> tuple[str, int]:
    """``:PORT`` and ``PORT`` are this host only; ``HOST:PORT`` says where to listen. Raises UsageError."""
    host, colon, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise UsageError(f"{text!r} is no address for gdb", "give :PORT, or HOST:PORT to listen elsewhere too")
    return (host.strip("[]") or LOOPBACK) if colon else LOOPBACK, int(port)


class GdbServer:
    """Listens at ``address``; a context. Raises HostError when the host refuses it."""

    def __init__(self, address: tuple[str, int]) -> None:
        host, port = address
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._listener = socket.create_server((host, port), family=family, backlog=1)
        except OSError as error:
            reason = error.strerror or str(error)
            raise HostError(f"gdb cannot be listened for at {host}:{port}: {reason}", "give another port") from None

    def __enter__(self) -> "GdbServer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.close()

    @property
    def address(self) -> tuple[str, int]:
        """With the port that the host chose, if it was to."""
        host, port = self._listener.getsockname()[:2]
        return host, port

    def serve(self, desk: Desk) -> bool:
        """Wait for a gdb and do what it says until it goes. False: it killed the guest."""
        connection, _ = self._listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return _Connection(connection, desk).serve()


class _Connection:
    def __init__(self, connection: socket.socket, desk: Desk) -> None:
        self._socket = connection
        self._reader = Reader()
        self._waiting: deque[bytes | Signal] = deque()
        self._closed = False
        self._last = b""
        self._target = Target(desk)
        self._stub = Stub(self._target, self._tell)

    def serve(self) -> bool:
        try:
            while (came := self._next()) is not None:
                match came:
                    case bytes():
                        after = self._answer(came)
                        if after is not After.GO_ON:
                            return after is After.DETACH
                    case Signal.BROKEN:
                        self._send(b"-" if self._stub.acknowledges else b"")
                    case Signal.REFUSED:
                        self._send(self._last)
                    case Signal.INTERRUPT | Signal.ACKNOWLEDGED:
                        pass  # the guest stands still
        finally:
            self._target.release()
        return True

    def _answer(self, body: bytes) -> After:
        if self._stub.acknowledges:
            self._send(b"+")
        with self._listening():
            answer, after = self._stub.answer(body)
        if answer is not None:
            self._last = frame(answer)
            self._send(self._last)
        return after

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """While the guest runs, an interrupt or the end of the connection stops it."""
        self._target.watch(self._socket.fileno(), self._came_while_running)
        alive = self._target.every(
            ALIVE_S, lambda: self._send(frame(b"O"))
        )  # gdb gives up after two seconds of silence
        try:
            yield
        finally:
            alive()
            self._target.unwatch(self._socket.fileno())

    def _came_while_running(self) -> None:
        self._receive()
        if self._closed or Signal.INTERRUPT in self._waiting:
            self._target.interrupt()

    def _next(self) -> bytes | Signal | None:
        while not self._waiting:
            if self._closed:
                return None
            self._receive()
        return self._waiting.popleft()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(RECEIVED_BYTES)
        except OSError:
            data = b""
        if data:
            self._waiting += self._reader.feed(data)
        else:
            self._closed = True

    def _tell(self, text: str) -> None:
        """Shown by gdb as it comes."""
        for start in range(0, len(text), 4096):
            self._send(frame(b"O" + text[start : start + 4096].encode().hex().encode()))

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the next look at the connection finds it gone
            self._socket.sendall(data)
