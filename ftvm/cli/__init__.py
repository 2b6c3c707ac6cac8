"""The ``ftvm`` command. Each file beside this one is a subcommand of its name, unless that has a leading underscore.

Such a file defines ``command``, a click command; adding one edits nothing here. Little is imported here, so that the
processes of modules come up while the rest is loaded.
"""

import gc
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from ftvm.monitor import nursery

NEED_MODULES = ("demo", "replay", "repl", "resume", "run")
"""Subcommands whose modules are started at once; others start them when they need some."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with the documented exit code."""
    # A caller may close the standard streams; then nothing else must get their numbers. In this order.
    sys.stdin = sys.stdin or open(os.devnull)
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")
    for wanted_end in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(wanted_end, _leave)
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in NEED_MODULES and "--help" not in words:
        nursery.prepare(2)
    from ftvm.cli._frame import execute

    code = execute(arguments)
    gc.freeze()  # the interpreter ends in half the time when it need not look at all that there is once more
    sys.exit(code)


def _leave(number: int, frame: FrameType | None) -> None:
    """End as an exception does: every ``finally`` runs, no terminal stays raw and no process stays behind."""
    sys.exit(128 + number)
