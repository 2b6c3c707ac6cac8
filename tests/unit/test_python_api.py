"""docs/python-api.md says what is."""

import doctest
import re
from pathlib import Path

import ftvm.machine
from ftvm.debug.session import Session
from tests.divergence.machines import build

PAGE = Path(__file__).parents[2] / "docs" / "python-api.md"


def test_the_examples_are_what_happens() -> None:
    # Without the fences, which doctest would take for output.
    text = re.sub(r"^```.*$", "", PAGE.read_text(), flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    result = doctest.DocTestRunner().run(test)
    assert (result.failed, result.attempted > 10) == (0, True)


def test_the_first_example_has_ten_lines() -> None:
    example = PAGE.read_text().split("```python\n")[1].split("```")[0]
    assert len([line for line in example.splitlines() if line.startswith((">>>", "..."))]) == 10


def test_what_the_tables_name_is_there() -> None:
    text = PAGE.read_text()
    of_machine, of_session = text.split("## Tests of")[0].split("## Back and forth")
    with build("hello") as machine:
        for table, owners in ((of_machine, (machine, ftvm.machine)), (of_session, (Session(machine),))):
            names = [
                name
                for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
                for name in re.findall(r"`(\w+)(?:\(|`|\[)", row)
            ]
            assert len(names) > 9
            assert [name for name in names if not any(hasattr(owner, name) for owner in owners)] == []
