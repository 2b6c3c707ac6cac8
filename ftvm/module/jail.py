"""The walls around a module's process: what it can reach of the host once it runs guest code.

A module computes. It needs its memory, two doorbells and the socket whose closing tells it that the monitor is gone;
everything else is taken from it before the first guest instruction. A module that asks for more is killed by the kernel
with SIGSYS: the monitor sees a dead module, as with any other fault, and the machine goes on.

The monitor builds the seccomp filter (``filter_program``, with libseccomp), once; a module only installs it, so that
nothing of libseccomp is loaded there.

What a filter cannot see is a clock that is read without a system call: by RDTSC, or in the vDSO. (PR_SET_TSC would
make that a fault too, but CPython itself reads the clock there whenever it takes a lock.) That no module looks at one
is held by tests of the sources and of determinism instead.
"""

import contextlib
import ctypes
import errno
import functools
import mmap
import os
import resource
import signal
import sys
from collections.abc import Iterable
from types import TracebackType

from ftvm.errors import HostError

# A module in the middle of a Debian boot calls read, write, poll, brk, mmap and munmap, and nothing else (strace).
# Which core it is on stands in memory where glibc has rseq(2), else in the vDSO, and only else the kernel is asked.
_ALLOWED = (
    *("read", "write", "poll", "getcpu", "close"),
    "restart_syscall",  # a poll that SIGSTOP and SIGCONT interrupted
    *("brk", "munmap", "mremap", "madvise", "futex"),  # malloc and Python's locks
    *("getpid", "gettid", "rt_sigprocmask", "rt_sigaction", "rt_sigreturn"),  # abort(), and the interpreter's end
    *("exit", "exit_group"),
)

MEMORY_SLACK_BYTES = 256 << 20
"""What a module may map beyond what it has when the walls close. A Debian boot takes 7 MiB."""

LAST_WORDS_BYTES = 64 << 10
"""How long a file may get that a module writes: its standard error is one."""

_BPF_INSTRUCTION_BYTES = 8

# From <linux/prctl.h> and <linux/seccomp.h>.
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    """``struct sock_fprog`` (<linux/filter.h>)."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


@functools.cache
def filter_program() -> bytes:
    """The seccomp filter of every module, as BPF instructions. Called by the monitor.

    Raises HostError when libseccomp is missing or does not know this host.
    """
    try:
        import pyseccomp  # type: ignore[import-untyped]  # looks for its library while it is imported
    except (ImportError, RuntimeError) as error:
        raise HostError(
            f"modules cannot be jailed without libseccomp ({error})",
            "install it (Debian: apt-get install libseccomp2)",
        ) from error
    try:
        rules = pyseccomp.SyscallFilter(pyseccomp.KILL_PROCESS)
        rules.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
        for name in _ALLOWED:
            rules.add_rule(pyseccomp.ALLOW, name)
        not_executable = pyseccomp.Arg(2, pyseccomp.MASKED_EQ, mmap.PROT_EXEC, 0)
        of_no_file = pyseccomp.Arg(3, pyseccomp.MASKED_EQ, mmap.MAP_ANONYMOUS, mmap.MAP_ANONYMOUS)
        rules.add_rule(pyseccomp.ALLOW, "mmap", not_executable, of_no_file)
        rules.add_rule(pyseccomp.ALLOW, "mprotect", not_executable)
        # Where the vDSO has no clock to offer CPython's locks come here; they do without an answer.
        rules.add_rule(pyseccomp.ERRNO(errno.EPERM), "clock_gettime")
        # abort() sends itself a signal; a filter that is built before the process exists cannot name that process, and
        # any other target may be the monitor. Refused, abort() falls back to an illegal instruction: SIGSEGV.
        rules.add_rule(pyseccomp.ERRNO(errno.EPERM), "tgkill")
        with os.fdopen(os.memfd_create("ftvm-jail", os.MFD_CLOEXEC), "w+b") as file:
            rules.export_bpf(file)
            file.seek(0)
            return file.read()
    except OSError as error:
        raise HostError(f"libseccomp cannot build the filter that jails modules: {error.strerror}") from error


def enter(program: bytes, keep: Iterable[int]) -> None:
    """Close the walls around this process, for ever. Standard streams and the descriptors ``keep`` stay open.

    ``program`` is what ``filter_program`` gave. After this only anonymous memory can be mapped, nothing can be opened,
    imported or started, and an uncaught exception is one line on standard error (a traceback needs source
    files). Raises HostError when the kernel refuses; then some walls may stand already, the filter does not.
    """
    sys.excepthook = _last_words
    sys.unraisablehook = lambda raised: _last_words(raised.exc_type, raised.exc_value, raised.exc_traceback)
    _close_all_but(keep)
    _limit()
    _prctl("no_new_privs", _PR_SET_NO_NEW_PRIVS, 1)
    instructions = ctypes.create_string_buffer(program, len(program))
    head = _Program(len(program) // _BPF_INSTRUCTION_BYTES, ctypes.addressof(instructions))
    _prctl("seccomp filters", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(head))


def breach(exit_status: int) -> str | None:
    """What the end of a module's process (``Popen.returncode``) says about the jail, for people; None if nothing."""
    return "tried a forbidden system call" if exit_status == -signal.SIGSYS else None


def _close_all_but(keep: Iterable[int]) -> None:
    kept = {0, 1, 2, *keep}
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in kept:
            with contextlib.suppress(OSError):  # the one that read the list is closed already
                os.close(fd)


def _limit() -> None:
    with open("/proc/self/statm", "rb") as file:
        mapped_bytes = int(file.read().split()[0]) * mmap.PAGESIZE
    for what, limit in (
        (resource.RLIMIT_AS, mapped_bytes + MEMORY_SLACK_BYTES),
        # The numbers below are taken, so there is none for a new descriptor; poll() takes up to this many.
        (resource.RLIMIT_NOFILE, 3),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, LAST_WORDS_BYTES),
    ):
        _, most = resource.getrlimit(what)
        bound = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(what, (bound, bound))


def _prctl(what: str, option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    if _libc.prctl(option, *padded) != 0:
        raise HostError(
            f"modules cannot be jailed: this kernel refuses {what} ({os.strerror(ctypes.get_errno())})",
            "run ftvm outside the sandbox or emulator that forbids it",
        )


def _last_words(kind: type[BaseException], value: BaseException | None, traceback: TracebackType | None) -> None:
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    where = f" ({traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno})" if traceback else ""
    words = " ".join(f"{kind.__name__}: {value}{where}".split())
    os.write(2, f"{words}\n".encode(errors="replace"))
