"""The verbs that every machine has. Rooms with verbs of their own call ``ControlServer.register`` as this file does."""

from typing import Annotated, Protocol

import msgspec

from ftvm.control.server import LATER, Call, ControlServer, Later
from ftvm.control.status import Status
from ftvm.display.screen import Screen
from ftvm.errors import HostError, UsageError
from ftvm.monitor.eventlog import (
    LEG_FAILED,
    LEG_FILLING,
    LEG_JOINED,
    MODULE_FAILED,
    MODULE_FILLING,
    MODULE_JOINED,
    SUSPEND_FAILED,
    SUSPENDED,
    Event,
    EventLog,
)
from ftvm.monitor.policing import Policing, Policy, Threshold

# Bounds keep what a client sends short enough to be repeated in an error.
Index = Annotated[int, msgspec.Meta(ge=0, lt=1000)]
LEG_PATTERN = r"^[a-z]+[0-9]+\.[0-9]+$"
Target = Index | Annotated[str, msgspec.Meta(max_length=64, pattern=LEG_PATTERN)]
"""What can be pulled, and is policed: a module by its index, a leg as ``disk0.1``."""


class Controlled(Protocol):
    """What the verbs need of a machine. All methods are called between two epochs, and return at once.

    They raise UsageError for what cannot be, with a hint what can.
    """

    def status(self) -> Status: ...

    def policing(self, target: Target) -> Policing: ...

    def pull(self, target: Target) -> None:
        """Take it out of service at once."""
        ...

    def insert(self, target: Target) -> None:
        """Begin to bring it back. About ``subject_of(target)`` there come MODULE_FILLING, then MODULE_JOINED or
        MODULE_FAILED; about a leg LEG_FILLING and so on."""
        ...

    def suspend(self, path: str) -> None:
        """At the next sync point write the verified state to ``path`` and end. SUSPENDED or SUSPEND_FAILED follows."""
        ...

    def quit(self) -> None:
        """End at the next sync point."""
        ...

    def screen(self) -> Screen:
        """What the text screen shows."""
        ...

    def send_keys(self, keys: str) -> None:
        """Type on the keyboard (ftvm/display/keyboard.py)."""
        ...


class _Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class StatusArguments(_Arguments, frozen=True):
    """The machine's state and that of all its parts."""


class Pull(_Arguments, frozen=True):
    """Take a module or a leg out of service."""

    target: Target


class Insert(_Arguments, frozen=True):
    """Bring a module or a leg back; with ``wait``, answer when it has everything and tell the progress meanwhile."""

    target: Target
    wait: bool = False


class ThresholdArguments(_Arguments, frozen=True):
    """Change what is given of a part's MTBF policing, and answer with all of it."""

    target: Target
    seconds: float | None = None
    samples: int | None = None
    policy: Policy | None = None


class Clear(_Arguments, frozen=True):
    """Forget the faults of a part."""

    target: Target


class Events(_Arguments, frozen=True):
    """The events after number ``since``; with ``follow``, one line each, and new ones until the client leaves."""

    since: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)] = 0
    follow: bool = False


class Suspend(_Arguments, frozen=True):
    """Save the machine to ``file``, an absolute path, and end it. Answered when the file is complete."""

    file: Annotated[str, msgspec.Meta(max_length=4096)]


class Quit(_Arguments, frozen=True):
    """End the machine at the next sync point."""


class ScreenArguments(_Arguments, frozen=True):
    """What the text screen shows: its cells (base64: a character and an attribute each, 80 to a row), the cursor, the
    16 colours, and whether the highest bit of an attribute means blinking."""


class SendKeys(_Arguments, frozen=True):
    """Type ``keys`` on the PS/2 keyboard: characters, and names in braces, such as {enter} or {ctrl-alt-del}."""

    keys: Annotated[str, msgspec.Meta(max_length=16384)]


def register(server: ControlServer, machine: Controlled, log: EventLog) -> None:
    """Offer all of the above."""

    def pull(arguments: Pull, call: Call) -> None:
        machine.pull(arguments.target)

    def insert(arguments: Insert, call: Call) -> Later | None:
        target, subject = arguments.target, subject_of(arguments.target)
        if not machine.policing(target).may_restart():
            raise UsageError(
                f"{subject} has had too many faults to come back",
                f"if its cause is gone, clear them first: ftvm ctl NAME clear {target}",
            )
        if not arguments.wait:
            machine.insert(target)
            return None

        def watch(event: Event) -> None:
            if event.subject != subject:
                return
            if event.kind in (MODULE_FILLING, LEG_FILLING):
                call.progress(event.detail)
            elif event.kind in (MODULE_JOINED, LEG_JOINED):
                call.answer(None)
            elif event.kind in (MODULE_FAILED, LEG_FAILED):
                call.fail(HostError(f"{subject} did not come back: {_reason(event)}"))

        call.on_end(log.follow(watch))
        machine.insert(target)
        return LATER

    def threshold(arguments: ThresholdArguments, call: Call) -> Threshold:
        policing = machine.policing(arguments.target)
        old = policing.threshold
        policing.threshold = Threshold(
            old.seconds if arguments.seconds is None else arguments.seconds,
            old.samples if arguments.samples is None else arguments.samples,
            arguments.policy or old.policy,
        )
        return policing.threshold

    def clear(arguments: Clear, call: Call) -> None:
        machine.policing(arguments.target).clear()
        log.emit("cleared", subject_of(arguments.target))

    def events(arguments: Events, call: Call) -> Later | dict[str, object]:
        past = log.since(arguments.since)
        if not arguments.follow:
            return {"events": past}
        call.on_end(log.follow(call.event))
        for event in past:
            call.event(event)
        return LATER

    def suspend(arguments: Suspend, call: Call) -> Later:
        if not arguments.file.startswith("/"):
            raise UsageError(
                f"{arguments.file!r} is not an absolute path", "the machine has a working folder of its own"
            )

        def watch(event: Event) -> None:
            if event.kind == SUSPENDED:
                call.answer(None)
            elif event.kind == SUSPEND_FAILED:
                call.fail(HostError(f"the machine could not be saved: {_reason(event)}"))

        call.on_end(log.follow(watch))
        machine.suspend(arguments.file)
        return LATER

    def quit_(arguments: Quit, call: Call) -> None:
        machine.quit()

    server.register("status", StatusArguments, lambda arguments, call: machine.status())
    server.register("pull", Pull, pull)
    server.register("insert", Insert, insert)
    server.register("threshold", ThresholdArguments, threshold)
    server.register("clear", Clear, clear)
    server.register("events", Events, events)
    server.register("suspend", Suspend, suspend)
    server.register("quit", Quit, quit_)
    server.register("screen", ScreenArguments, lambda arguments, call: machine.screen())
    server.register("sendkeys", SendKeys, lambda arguments, call: machine.send_keys(arguments.keys))


def subject_of(target: Target) -> str:
    """How events call a policed part."""
    return f"module {target}" if isinstance(target, int) else target


def _reason(event: Event) -> str:
    return str(event.detail.get("reason", "no reason is known"))
