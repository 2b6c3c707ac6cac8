"""A Linux guest that computes checksums, each of which the host can check. Used by kills.py, resync.py and
tests/divergence/test_kills.py.
"""

import hashlib
import re
from dataclasses import dataclass

from ftvm.guests.catalogue import Guest
from ftvm.machine import Machine, MachineConfig, OnConsole, RunResult
from ftvm.monitor.eventlog import Observer
from ftvm.units import MIB

GUEST = "debian-cloud"
LINES = 500
"""That each checksum is over: some 20 ms of work, with two processes and a pipe."""

SUSPICIOUS = "error|fail|bug|oops|stall|lockup|hung"
"""What a kernel's log says when something is wrong. Some of it is there in an undisturbed run, too."""

END = "session-42"
_END_COMMAND = "echo session-$((6 * 7))"
"""Its echo on the terminal is not its output."""

STOP = b"touch /tmp/stop\n"

_LINE = re.compile(r"^sum (\d+) ([0-9a-f]{32})  -\r?$", re.MULTILINE)
_STAMP = re.compile(r"^\[ *\d+\.\d+\] ", re.MULTILINE)


def work(condition: str) -> str:
    """Shell: checksums while ``condition`` holds, which may speak of their number, ``$i``."""
    checksum = f"$(seq $i $((i + {LINES - 1})) | md5sum)"
    return f'i=0; while {condition}; do echo "sum $i {checksum}"; i=$((i + 1)); done'


def endless_work() -> str:
    """Shell: checksums until the line STOP is typed; then ``last_words``. Nothing else gets between the output."""
    return f"stty -echo; PS1=; set +m; ({work('[ ! -e /tmp/stop ]')}; {last_words()}) &"


def last_words() -> str:
    """Shell: what the kernel complained of, then the text END."""
    return f"echo log:; dmesg | grep -iE '{SUSPICIOUS}'; {_END_COMMAND}"


def machine(
    guest: Guest,
    script: str,
    on_console: OnConsole | None = None,
    on_event: Observer | None = None,
    name: str | None = None,
    memory_bytes: int = 256 * MIB,
) -> Machine:
    """A machine that boots ``guest``, types ``script`` and stops at the text END."""
    config = MachineConfig(
        guest.path,
        initrd=guest.initrd,
        append=guest.append,
        memory_bytes=memory_bytes,
        stop_on=END,
        input=f"{script}\n".encode(),
        input_after=guest.ready,
        interactive=True,
        name=name,
        timeout_s=3600.0,
    )
    return Machine(config, on_console, on_event)


@dataclass(frozen=True)
class Transcript:
    """``checksums`` are (number, digest) in order of their appearance; ``log`` is what the kernel complained of."""

    checksums: list[tuple[int, str]]
    log: list[str]

    def wrong(self) -> list[str]:
        """Every checksum that is not the one of its number, or not in its place."""
        return [
            f"checksum {number}, as number {place} of all: {digest}"
            for place, (number, digest) in enumerate(self.checksums)
            if (number, digest) != (place, expected(place))
        ]


def expected(number: int) -> str:
    """What the guest's checksum of that number must be."""
    lines = "".join(f"{line}\n" for line in range(number, number + LINES))
    return hashlib.md5(lines.encode(), usedforsecurity=False).hexdigest()


def transcript(console: bytes) -> Transcript:
    """What a session says that ended well. Raises ValueError when its end is missing."""
    text = console.decode(errors="replace").replace("\r\n", "\n")
    log = text[text.rindex("\nlog:\n") + len("\nlog:\n") : text.rindex(END)]
    return Transcript(
        [(int(number), digest) for number, digest in _LINE.findall(text)],
        _STAMP.sub("", log).splitlines(),
    )


def undisturbed(guest: Guest, script: str) -> tuple[RunResult, bytes]:
    """The result and the console of a run that nobody disturbs."""
    shown = bytearray()
    result = machine(guest, script, lambda channel, data: shown.extend(data)).run()
    return result, bytes(shown)
