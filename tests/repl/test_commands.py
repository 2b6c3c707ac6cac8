"""What all commands have in common, and what each shows of a machine that runs."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from PIL import Image
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from ftvm.debug.repl import discovery
from ftvm.debug.repl.completion import LineCompleter
from ftvm.debug.repl.desk import Leave
from ftvm.exitcodes import ExitCode
from tests.repl.sessions import Session, session

COMMANDS = discovery.all_commands()


@pytest.fixture(scope="module")
def running() -> Iterator[Session]:
    with session("workload") as workload:
        workload("run until position 1M")
        yield workload


@pytest.fixture
def shared(running: Session) -> Session:
    """A machine in the middle of its work; tests that do not change its run share it."""
    running("goto 1M")
    return running


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_explains_itself_with_an_example(command: discovery.Command, shared: Session) -> None:
    text = shared(f"help {command.name}")
    assert shared(f"{command.name} --help").strip() in text.strip()
    examples = text.split("Example:")[1].splitlines()
    names = "|".join(re.escape(name) for name in (command.name, *command.aliases))
    assert any(re.match(rf"\s+(!|({names})\b)", line) for line in examples)
    assert command.summary and not command.summary.endswith("..."), "the first sentence is short"


def test_no_two_commands_share_a_name() -> None:
    names = [name for command in COMMANDS for name in (command.name, *command.aliases)]
    assert len(names) == len(set(names)) == len(discovery.names())


def test_help_lists_every_command(shared: Session) -> None:
    listed = shared("help")
    for command in COMMANDS:
        assert re.search(rf"^{command.name}\b", listed, re.MULTILINE)


def test_a_command_may_be_shortened_while_it_is_clear(shared: Session) -> None:
    assert shared("verd") == shared("verdict")
    assert "do you mean" in shared.refused("st")
    assert "do you mean status" in shared.refused("statsu")
    assert "'help' lists" in shared.refused("xyzzy")


@pytest.mark.parametrize(
    "line",
    [
        "regs nosuch",
        "regs -m 7",
        "regs --nosuch",
        "x",
        "x 0x7fffffffffff",
        "x main 0",
        "x main 1M",
        "x main -w 3",
        "x 0xffffffffff --physical",
        "disas nosuch",
        "disas main -n 0",
        "print 1+",
        "info nosuch",
        "verdict 99",
        "symbols nosuchsymbol",
        "symbols --load /nonexistent",
        "save /nonexistent/folder/file",
        "screendump /nonexistent/folder/file",
        "sendkeys {nokey}",
        "pull 7",
        "insert 0",
        "run until",
        "run until position 5",
        "run until text ''",
        "run --timeout 0",
        'x "main',
        r'type "\x"',
        "help nosuch",
        "status extra words",
        "run until what where",
        "step nosuch",
        "step 0",
        "step 1 2 3",
        "step 1000000",
        "back epoch",
        "back nosuch",
        "back continue nosuch",
        "back continue",
        "goto nosuch",
        "goto fault",
        "goto fault 7",
        "goto 1M 100",
        "checkpoint fault",
        "checkpoint 7",
        "break nosuch",
        "delete 99",
        "inject",
        "inject nosuch:5",
        "inject rax:99",
        "inject rax:5 nosuch=1",
        "inject rax:5 word",
        "inject rax:5 at=+x",
        "inject rax:5 -m 9",
        "inject rax:5 -m 1 --all",
        "plan",
        "plan load /nonexistent",
        "record /nonexistent/folder/file",
        "watch $rip",
        "watch $nosuch",
        "watch $rbx --read",
        "watch main 0",
        "watch 0x1ffe 8",
        "watch 0x7fffffffffff",
        "watch 0xffff 2 --port",
    ],
)
def test_what_cannot_be_is_one_clear_error(shared: Session, line: str) -> None:
    shown = shared.refused(line)
    assert "Traceback" not in shown
    assert shown.count("error: ") == 1


def test_registers_of_all_modules_stand_side_by_side(shared: Session) -> None:
    shown = shared("regs")
    assert re.search(r"^rip +0000000000100210 +0000000000100210 +copy\+0x70$", shown, re.MULTILINE)
    assert "*" not in shown
    assert "MODULE 1" not in shared("regs rip -m 0")
    assert re.search(r"^xmm0 +[0-9a-f]{32} ", shared("regs --all"), re.MULTILINE)
    assert shared("regs --differ") == "all registers are alike\n"
    assert re.search(r"^zf +[01] ", shared("regs zf"), re.MULTILINE)


def test_memory_is_shown_as_bytes_words_and_text(shared: Session) -> None:
    data = shared.desk.module(0).read_virtual(shared.desk.symbols.address("main"), 16)
    shown = shared("x main 16")
    assert data.hex(" ") in shown
    assert shared("x main 16 --physical") == shown, "this kernel maps everything to itself"
    assert f"{int.from_bytes(data[:8], 'little'):016x}" in shared("x main 8 -w 8")
    assert shared("mem main 16 -m 1") == shown
    assert "main+0x4c" in shared("x rsp 8 -w 8"), "what a word points to is named"


def test_code_is_shown_with_names_and_a_mark_where_the_machine_stands(shared: Session) -> None:
    lines = shared("disas -n 5").splitlines()
    assert lines[0] == "copy+0x70:"
    assert lines[1].startswith("=> 0x100210 ")
    assert lines[5].endswith("<copy+0x70>")
    assert len(lines) == 6
    assert shared("disas main").startswith("main:\n")


def test_calls_that_led_here_are_found_on_the_stack(shared: Session) -> None:
    shown = shared("bt")
    assert re.search(r"#0 +0x100210 copy\+0x70\n#1 +\S+ main\+0x4c", shown)


def test_chips_are_listed_and_shown(shared: Session) -> None:
    assert "pit\n" in shared("info chips")
    assert re.search(r"^counters\[0\]\.mode +2 +2$", shared("info pit"), re.MULTILINE)
    for chip in shared("info chips").split():
        shared(f"info {chip}")


def test_values_are_worked_out(shared: Session) -> None:
    assert shared("print main+1").endswith("main+0x1\n")
    assert shared("p 0-1") == "0xffffffffffffffff  -1\n"
    assert shared("print [rsp]").split()[-1] == "main+0x4c"


def test_the_screen_can_be_seen_and_drawn(shared: Session, tmp_path: Path) -> None:
    assert len(shared("screen").splitlines()) == 25
    shared(f"screendump {tmp_path}/screen.png")
    with Image.open(tmp_path / "screen.png") as picture:
        assert picture.size == (720, 400)


def test_the_machine_is_saved_and_goes_on(shared: Session, tmp_path: Path) -> None:
    assert "ftvm resume" in shared(f"save {tmp_path}/here.save")
    assert (tmp_path / "here.save").stat().st_size > 0
    shared("run until position +1")
    assert shared.desk.session.position == 1_000_001


def test_python_is_one_key_away(shared: Session) -> None:
    assert shared("!1 + 1") == "2\n"
    shared("!kept = machine.position")
    assert shared("!kept == machine.position") == "True\n"
    assert shared("py print('a b')") == "a b\n"
    for line in ("!1/0", "!1 +", "!raise SystemExit", "!nosuch"):
        done, shown = shared.attempt(line)
        assert not done
        assert "Error" in shown or "SystemExit" in shown


def test_a_defect_in_a_command_ends_nothing(shared: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise RuntimeError("boom")

    monkeypatch.setattr(shared.desk, "here", broken)
    assert "this is a defect of ftvm" in shared.refused("status")


def test_leaving_is_leaving(shared: Session) -> None:
    for line in ("quit", "exit", "q"):
        with pytest.raises(Leave):
            shared(line)


def test_what_an_option_or_a_word_can_be_is_completed(shared: Session) -> None:
    completer = LineCompleter(shared.desk)

    def offered(line: str) -> list[str]:
        found = completer.get_completions(Document(line), CompleteEvent(completion_requested=True))
        return [line[: len(line) + each.start_position] + each.text for each in found]

    assert offered("reg") == ["regs"]
    assert offered("cont") == ["run"], "also by another name"
    assert "regs rip" in offered("regs ri")
    assert "regs rip rsp" in offered("regs rip rs")
    assert "disas main" in offered("disas mai")
    assert "x table+main" in offered("x table+mai")
    assert "x $rax" in offered("x $ra")
    assert offered("info pi") == ["info pic0", "info pic1", "info pit"]
    assert "regs --differ" in offered("regs --d")
    assert offered("regs -m ") == ["regs -m 0", "regs -m 1"]
    assert "help status" in offered("help st")
    assert "step block" in offered("step b")
    assert "goto present" in offered("goto p")
    assert "break main" in offered("break mai")
    assert "sendkeys {enter}" in offered("sendkeys {en")
    assert offered("!mach") == []
    assert offered("nosuch wor") == []
    assert "run" in offered("")
    for line in ('x "main', "x -w", "status x", "regs -m 1 r"):
        offered(line)


def test_commands_are_click_commands_that_get_the_desk() -> None:
    assert all(isinstance(command.click, click.Command) for command in COMMANDS)


def test_the_exit_code_is_that_of_the_first_failure() -> None:
    with session("hello", modules=1) as one:
        assert one.interpreter.failed == ExitCode.OK
        one.refused("symbols --load /nonexistent")
        one.refused("nosuch")
        assert one.interpreter.failed == ExitCode.UNUSABLE_FILE
        assert "the guest has ended with 0" in one("run")
        assert "ended with 0" in one("run"), "there is no way on from there"


def test_input_reaches_a_guest_that_waits_for_it() -> None:
    with session("echo") as echo:
        assert "the guest waits" in echo("run")
        echo("type hello")
        assert "hello" in echo("run")
        echo("sendkeys keys")
        assert "keys" in echo("run")
        assert "hello" in echo("console")
        echo(r'type -n "\x71"')
        assert "ended with 0" in echo("run")


def test_modules_leave_and_come_back() -> None:
    with session("workload", append="rounds=50") as machine:
        machine("run until position 100k")
        machine("pull 1")
        assert "simplex" in machine("status")
        assert "module 1 is not in service" in machine.refused("regs -m 1")
        assert "1 is filled" in machine("insert 1")
        joined = ""
        while "back in service" not in joined:
            joined = machine("run until position +10M")
        assert "duplex," in machine("status")
        assert "MODULE 1" in machine("regs")


def test_a_divergence_is_told_listed_and_explained() -> None:
    with session("workload") as machine:
        machine("run until position 1M")
        machine("inject rdx:40 at=+10")
        assert "module 1: " in machine("run until position +1000")
        assert re.search(r"^1 +1,000,000 .*module 1 +transient", machine("verdict"), re.MULTILINE)
        explained = machine("verdict 1")
        assert "The first wrong instruction is at 0x100210 (copy+0x70), position 1,000,010: it made" in explained
        listed, place = machine("verdict"), machine("status").splitlines()[0]
        machine("goto 500000")
        assert machine("verdict") == listed and machine("verdict 1") == explained
        machine("goto present")
        assert machine("status").splitlines()[0] == place


# ---- back and forth ----


@pytest.fixture
def workload() -> Iterator[Session]:
    with session("workload") as machine:
        machine("run until position 1M")
        yield machine


def place(machine: Session) -> tuple[int, int]:
    return machine.desk.session.position, machine.desk.session.instruction


def test_steps_of_every_kind_go_on_and_back(workload: Session) -> None:
    assert "=> 0x100214 " in workload("step")
    assert place(workload) == (1_000_000, 1)
    workload("step block")
    assert place(workload) == (1_000_001, 0)
    workload("step i 7")
    workload("back 7")
    assert place(workload) == (1_000_001, 0)
    assert "(the present is " in workload("back step block 3")
    assert place(workload) == (999_998, 0)
    workload("goto present")
    workload("step sync")
    after = place(workload)
    workload("step epoch")
    assert place(workload) > after > (1_000_001, 0)


def test_an_empty_line_repeats_a_step_and_nothing_else(workload: Session) -> None:
    workload("step block")
    workload.interpreter.repeat()
    assert place(workload) == (1_000_002, 0)
    workload("pull 1")
    workload.interpreter.repeat()
    assert "simplex" in workload("status")


def test_places_are_gone_to_by_number_and_by_name(workload: Session) -> None:
    workload("checkpoint here")
    workload("goto 999999 2")
    assert place(workload) == (999_999, 2)
    workload("goto here")
    assert place(workload) == (1_000_000, 0)
    workload("goto -500")
    assert place(workload) == (999_500, 0)
    workload("goto present")
    assert place(workload) == (1_000_000, 0)
    shown = workload("timeline")
    for line in (r"^ *0 +the session began", r"^1,000,000 +place 'here'", r"^1,000,000 +you are here"):
        assert re.search(line, shown, re.MULTILINE), shown
    assert re.search(r"^here +1,000,000 +0$", workload("checkpoint"), re.MULTILINE)


def test_breakpoints_stop_the_guest_in_both_directions(workload: Session) -> None:
    assert workload("break main+0x4c") == "1: breakpoint at 0x10050c main+0x4c\n"
    assert workload("run").endswith("lea rdx, [rbx + rax]\n")
    met = place(workload)
    assert "1: breakpoint" in workload("run")
    assert "1: breakpoint" in workload("back continue")
    assert place(workload) == met
    assert workload("break") == "1: breakpoint at 0x10050c main+0x4c\n"
    workload("delete 1")
    workload("run until main+0x4c")
    assert place(workload) > met
    workload("back continue main+0x4c")
    assert place(workload) == met


def test_the_present_is_live_again_after_a_visit_to_the_past(workload: Session, tmp_path: Path) -> None:
    workload("goto 500000")
    for wrong in ("pull 7", "insert 7"):
        assert "there is no module 7" in workload.refused(wrong)
        assert "the present is 1,000,000" in workload("status")
    workload("goto present")
    assert workload(f"record {tmp_path / 'from-here'}").startswith("recording")
    assert "forgotten" not in workload("pull 1")


def test_watches_stop_the_guest_when_something_is_changed_or_touched(workload: Session) -> None:
    for line, text in (
        ("watch $rbx", "rbx changed"),
        ("watch rbx", "rbx changed"),
        ("watch rsp-8 8", "8 bytes at 0x1ebfa0 level2+0x7fa0 changed"),
        ("watch rsp 8 --read", "8 bytes at 0x1ebfa8 level2+0x7fa8 read"),
        ("watch 0x3f8 --port --write", "port 0x3f8 written"),
    ):
        workload("goto 1M")
        assert workload(line).endswith(f": {text}\n")
        assert text in workload("run"), line
        workload("delete")


def test_the_first_instruction_that_saw_a_fault_is_found(workload: Session) -> None:
    workload("inject rdx:5 at=+20")
    assert "module 1: transient register fault" in workload("run until position +100k")
    assert "the modules differ: register rdx" in workload("goto fault")
    assert place(workload) == (1_000_020, 0)
    assert re.search(r"^rdx +\S+ \* +\S+ \*", workload("regs --differ"), re.MULTILINE)
    assert re.search(r"^register rdx +0x16208 +0x16228$", workload("diff"), re.MULTILINE)
    assert "differ" not in workload("back")
    assert "register rax" in workload("step 2"), "the value that was read is wrong too"
    workload("goto present")
    assert workload("diff") == "the modules are alike\n"


def test_of_several_faults_each_can_be_gone_to(workload: Session) -> None:
    workload("inject rbx:5")
    workload("run until position +100")
    workload('inject "chip:pit.counters[0].mode:1" at=+1000 -m 0')
    workload("run until position +100k")
    assert "after the instruction at 1,000,000" in workload("goto fault 1")
    assert place(workload) == (1_000_000, 1)
    assert "chip pit.counters[0].mode" in workload("goto fault 2")
    assert place(workload) == (1_001_100, 0)
    assert workload("goto fault") == workload("goto fault 2")
    assert re.search(r"divergence 2: chip pit.*transient$", workload("timeline"), re.MULTILINE)
    assert re.search(r"^counters\[0\]\.mode +0 \* +2 \*$", workload("info pit"), re.MULTILINE)
    assert re.search(r"^pit \*$", workload("info chips"), re.MULTILINE)


def test_a_fault_in_all_modules_is_seen_by_nobody(workload: Session) -> None:
    workload("inject r15:3 --all")
    workload("run until position +1000")
    assert workload("verdict") == "the modules agreed at every sync point\n"


def test_a_plan_of_faults_is_loaded(workload: Session, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('version = 1\n[[fault]]\nmodule = 0\ntarget = "rdx:5"\nat = 1000020\n')
    assert "module=0,target=rdx:5" in workload(f"plan load {tmp_path}/plan.toml")
    assert "module 0: transient" in workload("run until position +1000")
    (tmp_path / "plan.toml").write_text("version = 1\n[[fault]]\nmodule = 7\n")
    assert "plan.toml" in workload.refused(f"plan {tmp_path}/plan.toml")


def test_a_recording_of_the_run_can_be_replayed(workload: Session, tmp_path: Path) -> None:
    workload(f"record {tmp_path}/run.rec")
    workload("run until position +1000")
    workload("goto -500")
    assert (tmp_path / "run.rec").stat().st_size > 1000


def test_what_is_done_in_the_past_makes_another_future(workload: Session) -> None:
    workload("goto 500k")
    assert "what came after position 500,000 is forgotten" in workload("pull 1")
    assert workload.desk.session.present == 500_000
    workload("run until position 600k")
    assert "simplex" in workload("status")


def test_a_terminal_gets_what_a_file_gets_but_for_colours() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    from ftvm.debug.repl.output import DIFFERS, Output

    for stream in (io.StringIO(), Terminal()):
        out = Output(stream)
        out.guest(b"login: ")
        out.line("an answer\x1b[2J", style=DIFFERS)
        out.table(["A", "B"], [["1", "2"]])
        plain = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
        assert plain == "login: \nan answer\\x1b[2J\nA  B\n1  2\n"
