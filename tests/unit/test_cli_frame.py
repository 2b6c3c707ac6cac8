"""The command's frame: help, version, exit codes, and one line for each error."""

import re

import click
import pytest

import ftvm
from ftvm.cli import _frame as cli
from ftvm.errors import UnusableFile
from ftvm.exitcodes import ExitCode


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words of every command, those of groups included."""
    found = []
    context = click.Context(group)
    for name in group.list_commands(context):
        found.append((*path, name))
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


@pytest.mark.parametrize("words", [(), *commands(cli.ftvm)], ids=" ".join)
def test_every_help_has_an_example_that_names_the_command(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.execute([*words, "--help"]) == ExitCode.OK
    text = capsys.readouterr().out
    assert re.search(r"Example:\n +" + " ".join(["ftvm", *words]), text), text


def test_help_lists_every_file_that_is_a_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    cli.execute(["--help"])
    listed = capsys.readouterr().out.partition("Commands:")[2]
    assert {"run", "guests"} <= set(listed.split())
    assert "_output" not in listed


def test_without_arguments_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute([]) == ExitCode.USAGE
    assert "Commands:" in capsys.readouterr().out


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["--version"]) == ExitCode.OK
    assert ftvm.__version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["run"], ["run", "hello", "--nonsense"], ["guests", "fetch"], ["guests", "fetch", "windows"]],
)
def test_wrong_usage_is_one_error_and_one_hint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(arguments) == ExitCode.USAGE
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert "--help" in hint


@pytest.mark.parametrize(
    ("raised", "code", "lines"),
    [
        (
            UnusableFile("x is no kernel", "give one"),
            ExitCode.UNUSABLE_FILE,
            ["error: x is no kernel", "hint: give one"],
        ),
        (UnusableFile("x is no kernel"), ExitCode.UNUSABLE_FILE, ["error: x is no kernel"]),
        (OSError(28, "No space left on device", "out"), ExitCode.HOST, ["error: out: No space left on device"]),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, []),
    ],
)
def test_an_exception_becomes_lines_and_an_exit_code(
    raised: BaseException,
    code: ExitCode,
    lines: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        raise raised

    monkeypatch.setattr(cli.Subcommands, "get_command", lambda *_: click.Command("broken", callback=fail))
    assert cli.execute(["broken"]) == code
    assert [line for line in capsys.readouterr().err.splitlines() if line] == lines
