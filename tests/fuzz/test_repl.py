"""Whatever stands in a script: clear errors, and the session goes on."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftvm.debug.repl import discovery
from ftvm.debug.repl.completion import LineCompleter
from ftvm.debug.repl.desk import Leave
from ftvm.debug.repl.shell import run_lines
from tests.repl.sessions import Session, session

# Those that would leave the test, write files that a name was made up for, or are the user's own Python.
SPARED = {"quit", "exit", "q", "py", "save", "record", "screendump", "attach"}
NAMES = sorted(set(discovery.names()) - SPARED)
OPTIONS = ["-m", "-n", "-w", "--all", "--help", "--physical", "--read", "--port", "--differ", "-t", "--load", "--at"]
WORDS = [
    *("main", "rip", "$rax", "rax:5", "mem:main:3", "chip:pit:1", "at=+5", "kind=set", "for=always", "every=1"),
    *("until", "position", "text", "block", "sync", "continue", "fault", "present", "disk0.1", "0", "1", "-1", "+5"),
    *(
        "1M",
        "0x100000",
        "[rsp+8]",
        "((1",
        "99999999999999999999",
        "''",
        "'",
        '"',
        "\\",
        "#",
        "{enter}",
        "{",
        "é",
        "\x00",
    ),
]


@pytest.fixture(scope="module")
def workload() -> Iterator[Session]:
    with session("workload") as machine:
        machine("run until position 100k")
        yield machine


def attempt(machine: Session, line: str) -> None:
    try:
        done, shown = machine.attempt(line)
    except Leave:
        pytest.fail(f"{line!r} left the session")
    assert "defect of ftvm" not in shown, f"{line!r}\n{shown}"
    assert done or "error: " in shown or "interrupted" in shown, f"{line!r}\n{shown}"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.sampled_from(NAMES), st.lists(st.sampled_from(OPTIONS + WORDS) | st.text(max_size=8), max_size=4))
def test_any_words_after_a_command_are_done_or_a_clear_error(workload: Session, name: str, words: list[str]) -> None:
    line = " ".join([name, *words])
    if name in ("run", "continue", "c"):  # it would run for ever, or to the end
        line += " --timeout 0.2"
    attempt(workload, line)
    workload("goto 100k")


@given(line=st.text(max_size=60).filter(lambda line: not line.strip().startswith(("!", "py"))))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_line_is_a_command_or_a_clear_error(workload: Session, line: str) -> None:
    if discovery_name(line) not in SPARED:
        attempt(workload, line)


def discovery_name(line: str) -> str:
    words = line.split()
    return discovery.find(words[0]).name if words and words[0] in discovery.names() else ""


@given(st.text(max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_completion_stands_any_line(workload: Session, line: str) -> None:
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    for text in (line, f"x {line}", f"goto {line}", f"symbols --load {line}", f"inject {line}"):
        for found in LineCompleter(workload.desk).get_completions(Document(text), CompleteEvent()):
            assert found.text


def test_a_script_of_noise_is_gone_through_to_its_end(workload: Session, tmp_path: Path) -> None:
    noise = random.Random(5).randbytes(3000)
    path = tmp_path / "script"
    path.write_bytes(noise + b"\nprint 6*7\n")
    lines = path.read_text(errors="surrogateescape").splitlines()
    spared = [line for line in lines if not line.strip().startswith("!")]
    workload.attempt("print 1")
    run_lines(workload.desk, workload.interpreter, spared, "script")
    assert workload.shown().endswith("ftvm> print 6*7\n0x2a  42\n")
