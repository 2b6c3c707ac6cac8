"""A user's end of a control socket: connect to a machine by name, ask, wait for the answer."""

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from ftvm.control import place
from ftvm.control.protocol import PROTOCOL, Error, Hello, Line, Request, encode, raw
from ftvm.errors import FtvmError, HostError, UsageError
from ftvm.exitcodes import ExitCode

PATIENCE_S = 30.0
"""For the answer of a machine that has to do nothing for it. It looks at its clients after each epoch at the latest."""

_decode_hello = msgspec.json.Decoder(Hello).decode
_decode_line = msgspec.json.Decoder(Line).decode
_decode_version = msgspec.json.Decoder(dict[str, Any]).decode

T = TypeVar("T")


class Refused(FtvmError):
    """The machine's answer is an error. ``code`` is the protocol's."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message, error.hint)
        self.code = error.code
        known = ExitCode.__members__.get(error.code.upper().replace("-", "_"))
        if known is not None:
            self.exit_code = known


class Client:
    """A connection to the machine ``name``; a context manager. One request at a time.

    Raises NotRunning when there is no such machine; HostError when it is somebody else's, does not answer or speaks
    another version of the protocol. So does every other method, when the machine goes away.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._last_id = 0
        self._socket = place.connect(place.socket_path(name))
        self._socket.settimeout(PATIENCE_S)
        self._lines = self._socket.makefile("rb")
        try:
            self.hello = self._greeting()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def call(
        self,
        verb: str,
        arguments: dict[str, Any],
        result: type[T],
        *,
        forever: bool = False,
        on_progress: Callable[[Any], None] | None = None,
    ) -> T:
        """Ask, and wait for the answer: PATIENCE_S, or as long as it takes. Raises Refused."""
        number = self._ask(verb, arguments, None if forever else PATIENCE_S)
        while True:
            line = self._line(number)
            if isinstance(line.result, msgspec.Raw):
                return msgspec.json.decode(line.result, type=result)
            if on_progress is not None and isinstance(line.progress, msgspec.Raw):
                on_progress(msgspec.json.decode(line.progress))

    def stream(self, verb: str, arguments: dict[str, Any], element: type[T]) -> Iterator[T]:
        """Ask, and give what comes, until the machine ends. Raises Refused."""
        number = self._ask(verb, arguments, None)
        while True:
            try:
                line = self._line(number)
            except Refused as refused:
                if refused.code == "gone":
                    return
                raise
            if isinstance(line.event, msgspec.Raw):
                yield msgspec.json.decode(line.event, type=element)

    def _greeting(self) -> Hello:
        line = self._receive()
        with contextlib.suppress(msgspec.DecodeError):
            version = _decode_version(line).get("protocol")
            if version == PROTOCOL:
                return _decode_hello(line)
            raise HostError(
                f"{self._name} speaks version {version} of the control protocol, this is version {PROTOCOL}",
                "use the ftvm that started the machine",
            )
        raise HostError(f"what listens as {self._name} is no machine", f"look at {place.socket_path(self._name)}")

    def _ask(self, verb: str, arguments: dict[str, Any], patience_s: float | None) -> int:
        try:
            request = encode(Request(self._last_id + 1, verb, raw(arguments)))
        except UnicodeEncodeError:
            raise UsageError(
                "an argument is not UTF-8", "the control protocol is JSON; use another file name"
            ) from None
        self._last_id += 1
        self._socket.settimeout(patience_s)
        # A machine that turns us away has said why already; the answer is read all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(request)
        return self._last_id

    def _line(self, number: int) -> Line:
        line = _decode_line(self._receive())
        if isinstance(line.error, Error) and line.id in (number, None):
            raise Refused(line.error)
        return line

    def _receive(self) -> bytes:
        try:
            line = self._lines.readline()
        except TimeoutError:
            raise HostError(
                f"the machine {self._name} does not answer", f"is its process {place.peer(self._socket)[0]} stopped?"
            ) from None
        except ConnectionResetError:
            line = b""
        if not line.endswith(b"\n"):
            raise HostError(f"the machine {self._name} ended before it answered")
        return line
