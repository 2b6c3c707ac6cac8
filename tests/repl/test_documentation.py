"""The sessions in the documents run as they stand there."""

import re
from pathlib import Path

import pytest

from tests.repl.sessions import session

ROOT = Path(__file__).parent.parent.parent
PROMPT = "    ftvm> "


def transcript(document: str) -> list[tuple[str, str]]:
    """(command, answer) of the session that begins with ``$ ftvm repl``, whatever stands in between."""
    text = (ROOT / document).read_text()
    lines = text.split("$ ftvm repl workload\n", 1)[1].split("\n## ")[0].splitlines()
    commands: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith(PROMPT):
            commands.append((line.removeprefix(PROMPT), []))
        elif line.startswith("    ") and commands:
            commands[-1][1].append(line[4:])
    return [(command, "\n".join(answer)) for command, answer in commands]


@pytest.mark.parametrize("document", ["docs/repl.md", "README.md"])
def test_the_session_for_newcomers_goes_as_it_is_written(document: str) -> None:
    commands = transcript(document)
    assert 5 <= len(commands) < 10, "less than ten commands"
    words = " ".join(command for command, _ in commands)
    assert "inject" in words and "goto fault" in words and "back" in words
    with session("workload", memory_bytes=256 << 20) as workload:
        for command, answer in commands:
            shown = workload(command).rstrip("\n")
            pattern = re.escape(answer).replace(re.escape("..."), r"[\s\S]*?")
            assert re.fullmatch(pattern, shown), f"{command}\n{shown}"
