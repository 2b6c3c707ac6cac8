"""A process in the jail can do a module's work, and nothing else."""

import os
import re
import resource
import signal
import subprocess
import sys

import pytest

from ftvm.errors import HostError
from ftvm.module import jail

PREPARE = """
import ctypes, gc, mmap, os, resource, select, signal, socket, sys, threading, time
from ftvm._native import lib
from ftvm.module import jail
program = sys.stdin.buffer.read()
libc = ctypes.CDLL(None, use_errno=True)
extra = os.open("/dev/zero", os.O_RDONLY)
kept = os.eventfd(0)
other = os.eventfd(0)
"""


WAIT = """
waited = int(sys.argv[1])
descriptors = (ctypes.c_int * 2)(waited, select.POLLIN)
jail.enter(program, [waited])
os.write(1, b"in")
libc.poll(descriptors, 1, -1)
os.write(1, b"out")
"""


def jailed(code: str, prepare: str = "") -> "subprocess.CompletedProcess[bytes]":
    """Run ``code`` in a process that prepared, as a module does, and then entered the jail."""
    script = f"{PREPARE}\n{prepare}\njail.enter(program, [kept])\n{code}"
    return subprocess.run([sys.executable, "-c", script], input=jail.filter_program(), capture_output=True, check=False)


def test_the_work_of_a_module_goes_on() -> None:
    done = jailed(
        """
blocks = [bytearray(1 << 20) for _ in range(50)]
blocks[0].extend(bytes(1 << 22))
del blocks
gc.collect()
libc.poll(None, 0, 0)
os.eventfd_write(kept, 1)
os.write(1, b"done")
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"done", b"")


@pytest.mark.parametrize(
    "attempt",
    [
        "open('/dev/null')",
        "os.open('/etc/passwd', os.O_RDONLY)",
        "os.stat('/')",
        "os.unlink('/nonexistent')",
        "socket.socket(socket.AF_INET)",
        "socket.socket(socket.AF_UNIX)",
        "socket.socketpair()",
        "os.memfd_create('more')",
        "os.dup(0)",
        "os.fork()",
        "threading.Thread(target=int).start()",
        "os.execv('/bin/true', ['true'])",
        "os.kill(os.getppid(), 0)",
        "signal.pidfd_send_signal(kept, 0)",
        "libc.ptrace(0, 0, 0, 0)",
        "libc.prctl(1, 0, 0, 0, 0)",
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
        "os.urandom(8)",
        "time.sleep(0.001)",
        "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
        "libc.mprotect(ctypes.c_void_p(page), 4096, mmap.PROT_READ | mmap.PROT_EXEC)",
        "libc.syscall(0x40000000 | 39)",  # getpid of the x32 ABI
        "libc.syscall(425, 1, 0)",  # io_uring_setup
    ],
)
def test_an_attempt_at_anything_else_is_death(attempt: str) -> None:
    prepare = "memory = mmap.mmap(-1, 4096)\npage = ctypes.addressof(ctypes.c_char.from_buffer(memory))"
    done = jailed(f"{attempt}\nos.write(1, b'alive')", prepare)
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, b"")
    assert jail.breach(done.returncode) == "tried a forbidden system call"


def test_other_ends_are_no_breach() -> None:
    assert [jail.breach(status) for status in (0, 1, -signal.SIGKILL, -signal.SIGSEGV)] == [None] * 4


def test_other_descriptors_are_closed() -> None:
    for forgotten in ("extra", "other"):
        done = jailed(f"os.read({forgotten}, 8)")
        assert done.returncode == 1
        assert done.stderr.startswith(b"OSError: [Errno 9]")


def test_memory_is_bounded_and_its_lack_is_no_breach() -> None:
    done = jailed(f"bytearray({jail.MEMORY_SLACK_BYTES})")
    assert done.returncode == 1
    assert done.stderr.startswith(b"MemoryError")


@pytest.mark.parametrize(
    ("limit", "bound"), [("CORE", 0), ("NPROC", 0), ("NOFILE", 3), ("FSIZE", jail.LAST_WORDS_BYTES)]
)
def test_the_limits_stand_behind_the_filter(limit: str, bound: int) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, resource; from ftvm.module import jail; jail._limit();"
            f"print(resource.getrlimit(resource.RLIMIT_{limit}))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str((bound, bound))


def test_a_lower_limit_of_the_user_stays() -> None:
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    script = (
        "import resource; from ftvm.module import jail; jail._limit(); print(resource.getrlimit(resource.RLIMIT_FSIZE))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, preexec_fn=lower)
    assert done.stdout.strip() == "(1000, 1000)"


def test_the_last_words_of_an_exception_are_one_line_and_open_no_source() -> None:
    done = jailed("def deep():\n    raise ValueError('two\\nlines')\ndeep()")
    assert done.returncode == 1
    assert re.fullmatch(rb"ValueError: two lines \(<string>:\d+\)\n", done.stderr)


def test_an_exception_that_nobody_can_raise_is_no_breach() -> None:
    done = jailed("class Bad:\n    def __del__(self):\n        raise ValueError('late')\nBad()")
    assert done.returncode == 0
    assert done.stderr.startswith(b"ValueError: late")


def test_abort_ends_the_process_without_a_signal_to_anybody() -> None:
    assert jailed("os.abort()").returncode == -signal.SIGSEGV


def test_a_stopped_process_goes_on_waiting() -> None:
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", f"{PREPARE}{WAIT}", str(reader)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(reader,),
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(jail.filter_program())
        process.stdin.close()
        assert process.stdout.read(2) == b"in"
        for _ in range(20):
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            process.send_signal(signal.SIGCONT)
        os.write(writer, b"x")
        assert process.stdout.read() == b"out"
    assert process.returncode == 0
    os.close(reader)
    os.close(writer)


def test_privileges_cannot_grow() -> None:
    script = (
        "import sys; from ftvm.module import jail; jail._prctl('x', jail._PR_SET_NO_NEW_PRIVS, 1);"
        "print(open('/proc/self/status').read())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "NoNewPrivs:\t1" in done.stdout


def test_a_kernel_that_refuses_is_said_in_one_line() -> None:
    with pytest.raises(HostError, match="this kernel refuses a thing"):
        jail._prctl("a thing", -1)


def test_a_missing_library_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    with pytest.raises(HostError, match="libseccomp") as raised:
        jail.filter_program.__wrapped__()
    assert raised.value.hint is not None
    assert "libseccomp2" in raised.value.hint
