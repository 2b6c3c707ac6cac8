"""The machine's end of control sockets: takes requests, calls verbs, sends answers and events.

It runs on the machine's thread, in the callback of one descriptor of the monitor's poller, and never waits: what a
client may cost is bounded in memory (one request, some unread answers) and in time (some requests per round). A client
that breaks the bounds loses its connection, and nothing else happens.
"""

import contextlib
import os
import select
import socket
from collections.abc import Callable
from enum import Enum
from typing import Any, Generic, TypeVar

import msgspec

import ftvm
from ftvm.control import place
from ftvm.control.protocol import PROTOCOL, REQUEST_BYTES, Error, Hello, Id, Line, Request, RequestId, encode, raw
from ftvm.errors import FtvmError
from ftvm.monitor.poller import Watcher

MAX_CLIENTS = 16
MAX_CALLS = 16
"""Verbs of one client that have not answered yet."""
REQUESTS_PER_ROUND = 16
"""Of one client; between two rounds the machine goes on."""
READ_BYTES = 4096
UNREAD_BYTES = 65536
"""No further request of a client is looked at while it has more answers than this to read."""
LOST_BYTES = 1 << 20
"""A client that lets more than this pile up (it follows the events, but does not read) is lost."""

_decode_request = msgspec.json.Decoder(Request).decode
_decode_id = msgspec.json.Decoder(RequestId).decode

Arguments = TypeVar("Arguments", bound=msgspec.Struct)


class Later(Enum):
    """What a verb returns that will answer through its Call."""

    LATER = "later"


LATER = Later.LATER


class Call:
    """One request under way. All methods do nothing once it is answered, or its client has gone."""

    def __init__(self, client: "_Client", number: Id) -> None:
        self._client: _Client | None = client
        self._id = number
        self._on_end: Callable[[], None] | None = None

    def progress(self, value: object) -> None:
        """Tell the client how far it is."""
        self._send(Line(id=self._id, progress=raw(value)))

    def event(self, value: object) -> None:
        """One more element of a stream."""
        self._send(Line(id=self._id, event=raw(value)))

    def answer(self, result: object) -> None:
        """The end, with a result."""
        line = Line(id=self._id, ok=True, result=raw(result))
        self._end(line)

    def fail(self, error: FtvmError) -> None:
        """The end, with an error."""
        self.refuse(Error(code(error), error.message, error.hint))

    def refuse(self, error: Error) -> None:
        """The end, with an error that has a code of its own."""
        self._end(Line(id=self._id, ok=False, error=error))

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call this once when the call is over: answered, its client gone, or the machine ended."""
        if self._client is None:
            callback()
        else:
            self._on_end = callback

    def drop(self) -> None:
        """The client has gone."""
        self._client = None
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end()

    def _send(self, line: Line) -> None:
        if self._client is not None:
            self._client.send(encode(line))

    def _end(self, line: Line) -> None:
        client = self._client
        if client is not None:
            client.calls.discard(self)
            self.drop()
            client.send(encode(line))


class _Verb(Generic[Arguments]):
    def __init__(self, arguments: type[Arguments], do: Callable[[Arguments, Call], object]) -> None:
        self.arguments = arguments
        self._decode = msgspec.json.Decoder(arguments).decode
        self._do = do

    def call(self, arguments: msgspec.Raw, call: Call) -> None:
        """Raises whatever the verb raises, and msgspec.ValidationError for arguments that are not its own."""
        result = self._do(self._decode(arguments), call)
        if result is not LATER:
            call.answer(result)


class _Client:
    """One connection: what it sent and nobody looked at, what it has not read, what it waits for."""

    def __init__(self, connection: socket.socket, on_unsent: Callable[["_Client"], None]) -> None:
        self.connection = connection
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.calls: set[Call] = set()
        self.heard = 0
        """When it last made a request, as a number that grows."""
        self.half_closed = False
        """It will send nothing more."""
        self.doomed = False
        """It is not listened to any more; it goes when it has read what there is for it."""
        self.broken = False
        self._on_unsent = on_unsent

    def send(self, data: bytes) -> None:
        self.outgoing += data
        self.flush()

    def flush(self) -> None:
        try:
            while self.outgoing:
                del self.outgoing[: self.connection.send(self.outgoing)]
        except BlockingIOError:
            self.broken = self.broken or len(self.outgoing) > LOST_BYTES
        except OSError:
            self.broken = True
        self._on_unsent(self)

    def has_request(self) -> bool:
        """A whole line is waiting, or one that is too long already."""
        return not self.doomed and (b"\n" in self.incoming or len(self.incoming) >= REQUEST_BYTES)

    def finished(self) -> bool:
        """Nothing more can come of it."""
        if self.broken:
            return True
        over = self.doomed or (self.half_closed and not self.calls and not self.has_request())
        return over and not self.outgoing

    def interest(self) -> int:
        """What to poll for. A request that is waiting is looked at when its answer can be written."""
        wanted = 0
        if not (self.half_closed or self.doomed or self.has_request()):
            wanted |= select.EPOLLIN
        if self.outgoing or self.has_request():
            wanted |= select.EPOLLOUT
        return wanted


class ControlServer:
    """Serves ``claim``'s name with verbs that rooms register. ``close`` ends it and gives the name back."""

    def __init__(self, claim: place.Claim, poller: Watcher) -> None:
        self._claim = claim
        self._poller = poller
        self._verbs: dict[str, _Verb[Any]] = {}
        self._clients: dict[int, _Client] = {}
        self._requests = 0
        # One descriptor in the monitor's poll stands for all of ours, which need to be polled for writing too.
        self._epoll = select.epoll()
        self._epoll.register(claim.listener, select.EPOLLIN)
        poller.watch(self._epoll.fileno(), self._turn)
        self.register("help", Help, self._help)

    def register(self, name: str, arguments: type[Arguments], do: Callable[[Arguments, Call], object]) -> None:
        """Offer a verb. ``do(arguments, call)`` returns the result, or LATER and then uses ``call``.

        ``arguments`` is a struct whose docstring says what the verb does. ``do`` runs on the machine's thread between
        two epochs, so it must be quick; an FtvmError that it raises becomes the answer.
        """
        assert name not in self._verbs, f"two verbs are called {name}"
        self._verbs[name] = _Verb(arguments, do)

    def close(self) -> None:
        """All calls end with the error ``gone``; the name is free again."""
        for client in list(self._clients.values()):
            for call in list(client.calls):
                call.refuse(Error("gone", "the machine has ended"))
            self._drop(client)
        self._poller.unwatch(self._epoll.fileno())
        self._epoll.close()
        self._claim.close()

    # ---- one round ----

    def _turn(self) -> None:
        for fd, ready in self._epoll.poll(0):
            if fd == self._claim.listener.fileno():
                self._accept()
            elif client := self._clients.get(fd):
                self._serve(client, ready)

    def _accept(self) -> None:
        try:
            connection, _ = self._claim.listener.accept()
        except OSError:  # the client has gone again, or we are out of descriptors: it stays in the queue
            return
        connection.setblocking(False)
        _, user = place.peer(connection)
        if user not in (os.geteuid(), 0):
            connection.close()
            return
        client = _Client(connection, self._watch)
        client.heard = self._requests
        welcome = len(self._clients) < MAX_CLIENTS or self._make_room()
        self._clients[connection.fileno()] = client
        self._epoll.register(connection, 0)
        client.send(encode(Hello(ftvm.__version__, PROTOCOL, self._claim.name, os.getpid())))
        if not welcome:
            client.doomed = True
            client.send(encode(_failure(None, "busy", f"{MAX_CLIENTS} clients are connected already")))

    def _make_room(self) -> bool:
        """Drop the client that has been silent longest, among those that wait for nothing."""
        idle = [client for client in self._clients.values() if not client.calls]
        if idle:
            self._drop(min(idle, key=lambda client: client.heard))
        return bool(idle)

    def _serve(self, client: _Client, ready: int) -> None:
        if ready & select.EPOLLOUT:
            client.flush()
        if ready & select.EPOLLIN:
            self._read(client)
        elif ready & (select.EPOLLHUP | select.EPOLLERR):
            client.broken = True
        for _ in range(REQUESTS_PER_ROUND):
            if client.broken or len(client.outgoing) > UNREAD_BYTES or not client.has_request():
                break
            self._request(client)
        self._watch(client)

    def _read(self, client: _Client) -> None:
        try:
            data = client.connection.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            client.broken = True
            return
        client.incoming += data
        client.half_closed = not data

    def _watch(self, client: _Client) -> None:
        """After anything that happened to a client: poll for what it needs now, or let it go."""
        if self._clients.get(client.connection.fileno()) is not client:
            return
        if client.finished():
            self._drop(client)
        else:
            self._epoll.modify(client.connection, client.interest())

    def _drop(self, client: _Client) -> None:
        del self._clients[client.connection.fileno()]
        client.broken = True
        client.connection.close()  # which also takes it out of epoll
        for call in list(client.calls):
            call.drop()
        client.calls.clear()

    # ---- one request ----

    def _request(self, client: _Client) -> None:
        self._requests += 1
        client.heard = self._requests
        line, newline, rest = client.incoming.partition(b"\n")
        client.incoming = rest
        if not newline or len(line) >= REQUEST_BYTES:
            client.doomed = True
            client.send(encode(_failure(None, "too-long", f"a request of more than {REQUEST_BYTES} bytes")))
            return
        if not line.strip():
            return
        try:
            request = _decode_request(line)
        except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, not a request, nested without end
            client.send(encode(_failure(_id_of(line), "bad-request", str(error), _REQUEST_HINT)))
            return
        verb = self._verbs.get(request.verb)
        if verb is None:
            known = ", ".join(sorted(self._verbs))
            client.send(encode(_failure(request.id, "unknown-verb", f"no verb {request.verb!r}", f"known: {known}")))
            return
        if len(client.calls) >= MAX_CALLS:
            client.send(encode(_failure(request.id, "busy", f"{MAX_CALLS} requests of this client are under way")))
            return
        self._call(client, verb, request)

    def _call(self, client: _Client, verb: _Verb[Any], request: Request) -> None:
        call = Call(client, request.id)
        client.calls.add(call)
        try:
            verb.call(request.arguments, call)
        except FtvmError as error:
            call.fail(error)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            call.refuse(Error("bad-arguments", f"{request.verb}: {error}", "the verb 'help' shows what it takes"))
        except Exception as error:  # noqa: BLE001  a defect in a verb must not end a machine that runs well
            call.refuse(Error("internal", f"{request.verb} failed: {error!r}", "this is a defect of ftvm; report it"))

    def _help(self, arguments: "Help", call: Call) -> dict[str, object]:
        return {
            name: {"about": verb.arguments.__doc__, "arguments": msgspec.json.schema(verb.arguments)}
            for name, verb in sorted(self._verbs.items())
        }


class Help(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All verbs, with JSON schemas of their arguments."""


_REQUEST_HINT = 'one line each, like {"id": 1, "verb": "status"}'


def code(error: FtvmError) -> str:
    """The code of an error as it goes over the wire: the name of its exit code."""
    return error.exit_code.name.lower().replace("_", "-")


def _failure(number: Id | None, code: str, message: str, hint: str | None = None) -> Line:
    return Line(id=number, ok=False, error=Error(code, " ".join(message.split()), hint))


def _id_of(line: bytes | bytearray) -> Id | None:
    with contextlib.suppress(ValueError, RecursionError):
        return _decode_id(line).id
    return None
