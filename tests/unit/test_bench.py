"""Benchmarks are found, run, and shown, whatever they measure."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from ftvm.bench import page, scripts
from ftvm.bench.scripts import Benchmark
from ftvm.cli._frame import ftvm
from ftvm.errors import HostError, UsageError

REPORT = """
import json, sys
print("1/2 half of it", file=sys.stderr)
print("2/2 all of it", file=sys.stderr)
results = {"fast": {"s": {"median": 1, "min": 0, "max": 2}}}
json.dump({"benchmark": "mine", "settings": sys.argv[1:], "results": results}, sys.stdout)
"""


def benchmark(folder: Path, text: str) -> Benchmark:
    (folder / "mine.py").write_text(text)
    return Benchmark("mine", folder / "mine.py", "what it measures")


def test_every_benchmark_has_a_page_and_a_name() -> None:
    there = scripts.available()
    assert {"faults", "kills", "stuck"} <= {each.name for each in there}
    assert all(each.about and each.script.is_file() for each in there)
    assert scripts.find("faults").script.name == "faults.py"


@pytest.mark.parametrize("name", ["measure", "bare", "none", "", "../faults"])
def test_what_is_no_benchmark_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no benchmark"):
        scripts.find(name)


def test_a_benchmark_tells_its_progress_and_gives_its_report(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    document = scripts.run(benchmark(tmp_path, REPORT), ["--x", "1"], lambda *line: told.append(line))
    assert told == [("1/2 half of it", 1, 2), ("2/2 all of it", 2, 2)]
    assert document["settings"] == ["--x", "1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys; sys.exit('error: no guest')", "no guest"),
        ("print('{')", "no report"),
        ("print('[]')", "no report"),
    ],
)
def test_a_benchmark_that_fails_says_why(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(HostError, match=said):
        scripts.run(benchmark(tmp_path, text), [], lambda *line: None)


def test_the_page_shows_every_figure_and_needs_nothing_else() -> None:
    document = {
        "benchmark": "mine <1>",
        "host": {"cpu": "a CPU", "cores": 2},
        "results": {
            "fast": {"machine_s": {"median": 1.25, "min": 1, "max": 2}, "runs": 3},
            "alone": 42,
            "plots": [
                {"title": "by length", "x": "blocks", "y": "s", "series": {"a": [[1, 2], [1000, 3]], "b": [[10, 1]]}},
                {"title": "spread", "x": "ms", "values": [0.1, 1, 10, 10]},
            ],
        },
    }
    html = page.page([document])
    for text in ("mine &lt;1&gt;", "a CPU", "1.25 (1 to 2)", "<td>42</td>", "by length", "<svg", "spread"):
        assert text in html
    assert "http://www.w3.org/2000/svg" in html
    assert all(outside not in html for outside in ("<script", "<link", "src="))


def test_rows_of_one_kind_are_in_one_table_and_numbers_are_short() -> None:
    spread = {"median": 1234.5678, "min": 0.0001234, "max": 20000.0}
    results = {
        "20k": {"faults": 5, "ms": spread},
        "100k": {"faults": 5},
        "found": {"s": spread},
        "alone": 1234567,
    }
    html = page.page([{"benchmark": "mine", "settings": {"epochs": "20k", "count": 5}, "results": results}])
    assert html.count("<table>") == 3
    assert "1,235 (0.0001234 to 20,000)" in html
    assert "1,234,567" in html
    assert "epochs 20k, count 5" in html


def test_the_command_lists_them_and_refuses_arguments_for_several() -> None:
    runner = CliRunner()
    listed = runner.invoke(ftvm, ["bench", "--list"])
    assert listed.exit_code == 0
    assert "faults " in listed.output
    refused = runner.invoke(ftvm, ["bench", "--arguments", "--count 1"])
    assert isinstance(refused.exception, UsageError)
