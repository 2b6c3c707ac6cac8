"""Exit codes of the ``ftvm`` command. Scripts rely on them: a number never changes its meaning."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a finished ``ftvm`` process says to its caller."""

    OK = 0  # the guest ended well, or the --stop-on text came
    GUEST_FAILURE = 1  # the guest reported failure
    USAGE = 2  # wrong usage
    UNUSABLE_FILE = 3  # an image, disk, plan or recording that cannot be used
    HOST = 4  # the host refused something: memory, permission, a missing program
    TIMEOUT = 5
    GUEST_STUCK = 6  # the guest crashed or halted for ever
    FAIL_STOP = 7  # the modules differ and nobody can say who is right
    INTERRUPTED = 130  # Ctrl-C
