"""The errors that ftvm raises on purpose: whose fault it is, where, and what to do about it.

Each class carries the exit code of the process; the command line prints ``error: <message>`` and, when
there is one, ``hint: <hint>``, one line each, and never a traceback.
"""

from ftvm.exitcodes import ExitCode


class FtvmError(Exception):
    """Base of all errors with a clear cause.

    ``message`` is one line: what is wrong, and where. ``hint`` is one line: what the user can do.
    """

    exit_code: ExitCode = ExitCode.HOST

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(FtvmError):
    """The command line, or an argument of the Python API, asks for something that cannot be."""

    exit_code = ExitCode.USAGE


class UnusableFile(FtvmError):
    """An image, initrd, disk, plan or recording that cannot be used as what it was given for."""

    exit_code = ExitCode.UNUSABLE_FILE


class HostError(FtvmError):
    """The host refused something: memory, a permission, a file that cannot be written, a missing program."""

    exit_code = ExitCode.HOST


class EngineError(HostError):
    """The CPU engine is not the one this build was made for, or refused an operation."""
