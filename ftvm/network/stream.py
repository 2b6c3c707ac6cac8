"""A leg on a Unix stream socket: each frame after its length, 32 bits, big-endian.

That is what QEMU's ``-netdev stream`` speaks, so passt gives user-mode networking without root. We connect; a peer that
goes away is a link that is down, until it listens again.
"""

import contextlib
import errno
import os
import select
import socket
import time
from collections import deque
from collections.abc import Sequence

from ftvm.network.frame import HEADER_BYTES, MAX_FRAME_BYTES, Frame
from ftvm.network.leg import LegFailed, Reason
from ftvm.network.offload import finished

LENGTH_BYTES = 4
RETRY_S = 0.5
"""Between two attempts to reach the peer."""
MAX_OUTGOING_BYTES = 4 << 20
"""What the peer has not taken yet; what is sent beyond that is dropped."""
_READ_BYTES = 256 * 1024
_BUFFERS = 512
"""For one system call, less than IOV_MAX."""


class StreamLeg:
    """Connects to the socket at ``path``, now and whenever the link is down. The peer is not trusted."""

    reflects = False

    def __init__(self, path: str) -> None:
        self.link_up = False
        self.dropped = 0
        self._path = path
        self._epoll = select.epoll()
        self._socket: socket.socket | None = None
        self._incoming = bytearray()
        self._ready: deque[Frame] = deque()
        self._outgoing: deque[memoryview] = deque()
        self._outgoing_bytes = 0
        self._awaits_room = False
        self._retry_s = 0.0
        self._connect()

    def fileno(self) -> int:
        return self._epoll.fileno()

    def deadline_s(self) -> float | None:
        if self._ready:
            return 0.0
        return None if self.link_up else self._retry_s

    def receive(self, limit: int) -> list[Frame]:
        if self._socket is None:
            if time.monotonic() >= self._retry_s:
                self._connect()
            return []
        if self._awaits_room:
            self._flush()
        if len(self._ready) < limit:
            self._read()
        return [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]

    def send(self, frames: Sequence[Frame]) -> None:
        if self._socket is None:
            self.dropped += len(frames)
            return
        for data in finished(frames):
            if self._outgoing_bytes > MAX_OUTGOING_BYTES or len(data) > MAX_FRAME_BYTES:
                self.dropped += 1
                continue
            self._outgoing.append(memoryview(len(data).to_bytes(LENGTH_BYTES, "big") + data))
            self._outgoing_bytes += LENGTH_BYTES + len(data)
        self._flush()

    def close(self) -> None:
        self._disconnect()
        self._epoll.close()

    def _connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(self._path)
        except OSError:  # nobody listens, or that can be no path
            connection.close()
            self._retry_s = time.monotonic() + RETRY_S
            return
        self._socket = connection
        self._epoll.register(connection, select.EPOLLIN)
        self.link_up = True

    def _disconnect(self) -> None:
        """The link is down. What was under way is lost, as it is on a wire."""
        if self._socket is not None:
            self._epoll.unregister(self._socket)
            self._socket.close()
            self._socket = None
        self.link_up = self._awaits_room = False
        self._retry_s = time.monotonic() + RETRY_S
        self._incoming.clear()
        self._ready.clear()
        self._outgoing.clear()
        self._outgoing_bytes = 0

    def _fail(self, reason: Reason, detail: str) -> LegFailed:
        self._disconnect()
        return LegFailed(reason, detail)

    def _read(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise self._fail(Reason.LINK_DOWN, f"{self._path}: {error.strerror}") from None
        if not data:
            raise self._fail(Reason.LINK_DOWN, f"{self._path}: the peer closed the connection")
        self._split(data)

    def _split(self, data: bytes) -> None:
        """Take whole frames out of what has come."""
        if self._incoming:
            data = bytes(self._incoming) + data
            self._incoming.clear()
        at = 0
        while len(data) - at >= LENGTH_BYTES:
            length = int.from_bytes(data[at : at + LENGTH_BYTES], "big")
            if not HEADER_BYTES <= length <= MAX_FRAME_BYTES:
                raise self._fail(Reason.BAD_FRAME, f"{self._path}: the peer sent a frame of {length} bytes")
            end = at + LENGTH_BYTES + length
            if end > len(data):
                break
            self._ready.append(Frame(data[at + LENGTH_BYTES : end]))
            at = end
        self._incoming += data[at:]

    def _flush(self) -> None:
        assert self._socket is not None
        outgoing = self._outgoing
        while outgoing:
            try:
                sent = self._socket.sendmsg([part for part, _ in zip(outgoing, range(_BUFFERS), strict=False)])
            except BlockingIOError:
                break
            except OSError as error:
                reason = Reason.LINK_DOWN if error.errno in (errno.EPIPE, errno.ECONNRESET) else Reason.IO_ERROR
                raise self._fail(reason, f"{self._path}: {os.strerror(error.errno or 0)}") from None
            self._outgoing_bytes -= sent
            while outgoing and sent >= len(outgoing[0]):
                sent -= len(outgoing.popleft())
            if sent:
                outgoing[0] = outgoing[0][sent:]
        if bool(outgoing) != self._awaits_room:
            self._awaits_room = bool(outgoing)
            with contextlib.suppress(FileNotFoundError):
                self._epoll.modify(self._socket, select.EPOLLIN | (select.EPOLLOUT if outgoing else 0))
