"""Faults in words: what is written is what is meant, and what cannot be meant is refused where it stands."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ftvm.errors import FtvmError, UnusableFile, UsageError
from ftvm.faults.notation import Guest, format_fault, parse_fault
from ftvm.faults.plan import load_plan, parse_plan
from ftvm.faults.toml_lines import TomlLines
from ftvm.module.fault import (
    ALWAYS,
    Access,
    AtPosition,
    AtTime,
    Change,
    ChipBit,
    Fault,
    Leg,
    LinearBit,
    OnExecution,
    OnMmio,
    OnPort,
    OnText,
    OpcodeBit,
    Operation,
    PageTableBit,
    Process,
    RamBit,
    ReadBit,
    RegisterBit,
    Skip,
    TlbBit,
    WrittenBit,
)
from ftvm.module.registers import REGISTERS
from ftvm.units import GIB, MIB

ROOT = Path(__file__).parents[2]


def symbol(name: str) -> int:
    if name != "main":
        raise UsageError(f"no symbol is called {name!r}")
    return 0x100400


GUEST = Guest(64 * MIB, symbol)
AT = AtPosition(5)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("module=1,target=rax:5,at=2000000", Fault(1, AtPosition(2_000_000), RegisterBit("rax", 5))),
        ("module=1,target=rax:5,at=2M", Fault(1, AtPosition(2_000_000), RegisterBit("rax", 5))),
        ("at=5,target=xmm3:120-127,module=0", Fault(0, AT, RegisterBit("xmm3", 120), Change(width=8))),
        ("module=0,target=ah:1,at=5", Fault(0, AT, RegisterBit("rax", 9))),
        ("module=0,target=zf:0,at=5,kind=set", Fault(0, AT, RegisterBit("rflags", 6), Change(Operation.SET))),
        ("module=all,target=cs.base:3,at=5", Fault(None, AT, RegisterBit("cs.base", 3))),
        ("module=0,target=phys:0x1000:3,at=5,logged=true", Fault(0, AT, RamBit(0x1000, 3, True))),
        ("module=0,target=phys:4096:13,at=5", Fault(0, AT, RamBit(0x1001, 5))),
        ("module=0,target=mem:main+0x10:0,at=5", Fault(0, AT, LinearBit(0x100410, 0))),
        ("module=0,target=pte:main:1,level=2,at=5", Fault(0, AT, PageTableBit(0x100400, 2, 1))),
        ("module=0,target=tlb:0x100000:12,at=5", Fault(0, AT, TlbBit(0x100000, 12))),
        (
            "module=0,target=chip:pit.counters[0].initial:3,at=5",
            Fault(0, AT, ChipBit("pit.counters[0].initial", 3)),
        ),
        ("module=0,target=opcode:9,at=5+3", Fault(0, AtPosition(5, 3), OpcodeBit(9))),
        ("module=0,target=skip,at=exec:main,nth=3", Fault(0, OnExecution(0x100400, 3), Skip())),
        ("module=0,target=read:main:9,at=5", Fault(0, AT, ReadBit(0x100401, 1))),
        ("module=0,target=written:main:0,at=5", Fault(0, AT, WrittenBit(0x100400, 0))),
        ("module=0,target=module,kind=kill,at=5", Fault(0, AT, Process("kill"))),
        ("module=0,target=module,kind=slow,milliseconds=20,at=5", Fault(0, AT, Process("slow", 20))),
        (
            "module=0,target=rax:1,kind=stuck-at-1,at=5",
            Fault(0, AT, RegisterBit("rax", 1), Change(Operation.SET), ALWAYS),
        ),
        (
            "module=0,target=rax:1,kind=stuck-at-0,for=10k,at=5",
            Fault(0, AT, RegisterBit("rax", 1), Change(Operation.CLEAR), 10_000),
        ),
        ("module=0,target=rax:1,at=5,every=2k,times=0", Fault(0, AT, RegisterBit("rax", 1), every=2000, times=0)),
        ("module=0,target=rax:1,at=text:a, b=", Fault(0, OnText(b"a, b="), RegisterBit("rax", 1))),
        ("module=0,target=rax:1,at=text:a:b,nth=2", Fault(0, OnText(b"a:b", 2), RegisterBit("rax", 1))),
        ("module=0,target=rax:1,at=port:0x3f8/write", Fault(0, OnPort(0x3F8, Access.WRITE), RegisterBit("rax", 1))),
        ("module=0,target=rax:1,at=mmio:0xfee000b0", Fault(0, OnMmio(0xFEE000B0), RegisterBit("rax", 1))),
        ("module=0,target=rax:1,at=time:1.5s", Fault(0, AtTime(1_500_000_000), RegisterBit("rax", 1))),
        ("module=0,target=rax:1,at=time:0.25us", Fault(0, AtTime(250), RegisterBit("rax", 1))),
        (
            "module=0,target=rax:4-7,kind=value-0x9,at=5",
            Fault(0, AT, RegisterBit("rax", 4), Change(Operation.VALUE, 4, b"\x09")),
        ),
        (
            "target=disk0.1,kind=bit-rot,offset=512,bit=3,at=5",
            Fault(None, AT, Leg("disk0", 1, "bit-rot", {"offset": 512, "bit": 3})),
        ),
        (
            "target=nic0.0,kind=drop,rate=0.5,seed=3,at=5",
            Fault(None, AT, Leg("nic0", 0, "drop", {"rate": 0.5, "seed": 3})),
        ),
    ],
)
def test_what_is_written_is_what_is_meant(text: str, fault: Fault) -> None:
    assert parse_fault(text, GUEST) == fault
    assert parse_fault(format_fault(fault), GUEST) == fault, "and can be written again"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a field"),
        ("module=1", "'target' is missing"),
        ("target=rax:5,at=5", "'module' is missing"),
        ("module=1,target=rax:5", "'at' is missing"),
        ("module=1,module=1,target=rax:5,at=5", "twice"),
        ("module=1,target=rax:5,at=5,colour=red", "field colour: there is no field"),
        ("module=one,target=rax:5,at=5", "field module"),
        ("module=1,target=rax,at=5", "which bit of rax"),
        ("module=1,target=rax:x,at=5", "field target"),
        ("module=1,target=rax:8-5,at=5", "no range of bits"),
        ("module=1,target=eax:32,at=5", "eax has no bit 32"),
        ("module=1,target=tea:5,at=5", "no register is named 'tea'"),
        ("module=1,target=rax:5,at=soon", "field at: 'soon' is not a number of blocks"),
        ("module=1,target=rax:5,at=noon:5", "is no moment"),
        ("module=1,target=rax:5,at=5,nth=2", "field nth: '5' happens only once"),
        ("module=1,target=rax:5,at=port:1/look", "no access"),
        ("module=1,target=rax:5,at=time:3h", "is no time"),
        ("module=1,target=rax:5,at=random:9-3", "no position"),
        ("module=1,target=rax:5,at=5,kind=melt", "no kind 'melt'"),
        ("module=1,target=rax:5,at=5,kind=stuck-at-1,for=0", "field for"),
        ("module=1,target=rax:5,at=5,kind=value-2", "does not fit into 1 bits"),
        ("module=1,target=mem:nowhere:5,at=5", "no symbol is called 'nowhere'"),
        ("module=1,target=phys:0x80000000:5,at=5", "not RAM of this guest"),
        ("module=1,target=rax:5,at=5,logged=perhaps", "neither true nor false"),
        ("module=1,target=module,at=5", "'kind' is missing"),
        ("module=1,target=module,kind=kill,at=5,for=3", "no field 'for'"),
        ("target=disk0.1,kind=melt,at=5", "no kind 'melt' of fault in a disk"),
        ("target=disk0.1,kind=io-error,offset=x,at=5", "field offset"),
        ("target=nic0.1,kind=drop,rate=2,at=5", "probability"),
        ("target=nic0.1,kind=drop,direction=up,at=5", "no direction"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fault(text, GUEST)
    assert message in caught.value.message


def test_addresses_behind_the_hole_are_found_in_ram() -> None:
    fault = parse_fault("module=0,target=phys:0x100000000:0,at=5", Guest(4 * GIB))
    assert fault.target == RamBit(3 * GIB, 0)
    assert "phys:0x100000000:0" in format_fault(fault)


def test_chance_follows_the_seed_alone() -> None:
    text = "module=0,target=rax,kind=random,at=random:1-1000000,seed={}"
    drawn = [parse_fault(text.format(seed), GUEST) for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(map(format_fault, drawn))) == 3
    assert parse_fault(format_fault(drawn[0]), GUEST) == drawn[0]


# ---- plans ----

PLAN = """# a comment
version = 1
seed = 3

[[fault]]
module = 1
target = "rax:5"
at = 2_000_000

[[fault]]   # the second
module = 0
target = \"\"\"skip\"\"\"
at = "text:[[fault]]"
nth = 2
"""


def test_a_plan_is_its_faults() -> None:
    assert parse_plan(PLAN, "plan", GUEST) == [
        Fault(1, AtPosition(2_000_000), RegisterBit("rax", 5)),
        Fault(0, OnText(b"[[fault]]", 2), Skip()),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("version = 1", "version = 2"), "plan:2: field version"),
        (("version = 1", ""), "plan: field version"),
        (("seed = 3", "seed = true"), "plan:3: field seed"),
        (("seed = 3", "sed = 3"), "plan:3: field sed"),
        (("rax:5", "rax:64"), None),
        (("rax:5", "eax:64"), "plan:7: fault 1, field target: eax has no bit 64"),
        (("at = 2_000_000", "at = 2.5"), "plan:8: fault 1, field at"),
        (("at = 2_000_000", "at = [1]"), "plan:8: fault 1, field at: it has one value"),
        (("at = 2_000_000", ""), "plan:5: fault 1: the field 'at' is missing"),
        (("nth = 2", "nth = 'two'"), "plan:14: fault 2, field nth"),
        (("nth = 2", "kind = 'melt'"), "plan:14: fault 2, field kind"),
        (("nth = 2", "nth = "), "line 14"),
        (("[[fault]]   # the second", "[[fualt]]"), "plan:10: field fualt"),
    ],
)
def test_an_error_names_the_line_and_the_field(change: tuple[str, str], message: str | None) -> None:
    text = PLAN.replace(*change)
    assert text != PLAN
    if message is None:
        assert parse_plan(text, "plan", GUEST)  # what a machine has not got is for the machine to say
        return
    with pytest.raises(UnusableFile) as caught:
        parse_plan(text, "plan", GUEST)
    assert message in caught.value.message


@pytest.mark.parametrize("text", ["version = 1", "version = 1\nfault = []", "version = 1\nfault = 3"])
def test_a_plan_without_faults_is_none(text: str) -> None:
    with pytest.raises(UnusableFile, match="there is no fault"):
        parse_plan(text, "plan", GUEST)


def test_files_that_are_no_plans(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="cannot be read"):
        load_plan(tmp_path / "nothing", GUEST)
    (tmp_path / "binary").write_bytes(b"version = 1 # \xff")
    with pytest.raises(UnusableFile, match="not UTF-8"):
        load_plan(tmp_path / "binary", GUEST)
    (tmp_path / "large").write_bytes(b"#" * (2 << 20))
    with pytest.raises(UnusableFile, match="more than"):
        load_plan(tmp_path / "large", GUEST)


def test_the_examples_of_the_documentation_are_plans_and_faults() -> None:
    text = (ROOT / "docs" / "fault-plans.md").read_text()
    guest = Guest(64 * MIB, lambda name: 0x100000)
    (plan,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(parse_plan(plan, "docs", guest)) == 4
    lines = re.findall(r"--fault (\S+)", text)
    assert len(lines) == 3
    for line in lines:
        parse_fault(line, guest)


def test_lines_of_values_that_go_over_several() -> None:
    text = 'a = [\n  "]",  # [\n]\nb = """\nc = 1\n\\"""\n"""\n[t]\nd = 1\n[[u]]\n[u.v]\ne.f = 2\n[[u]]\ng = 3\n'
    lines = TomlLines(text)
    assert lines.of("a") == 1
    assert lines.of("b") == 4
    assert lines.of("c") is None
    assert (lines.of("t"), lines.of("t", "d")) == (8, 9)
    assert (lines.of("u", 0), lines.of("u", 0, "v", "e", "f"), lines.of("u", 1, "g")) == (10, 12, 14)
    assert lines.of("u", 1, "h") == 13, "the nearest thing around it"


WORDS = st.sampled_from(
    ["module", "target", "kind", "at", "nth", "for", "every", "times", "logged", "level", "seed", "offset", "", "x"]
)
VALUES = st.one_of(
    st.integers(-5, 1 << 70).map(str),
    st.sampled_from(
        [*sorted(REGISTERS)[:20], "rax:5", "mem:main:3", "skip", "module", "disk0.0", "random:1-2", "text:"]
    ),
    st.text(max_size=12),
)


@settings(max_examples=400)
@given(st.lists(st.tuples(WORDS, VALUES), max_size=7))
@example([("module", "0"), ("target", "rax:5"), ("at", "")])
def test_any_line_is_a_fault_or_a_clear_error(fields: list[tuple[str, str]]) -> None:
    text = ",".join(f"{name}={value}" for name, value in fields)
    try:
        fault = parse_fault(text, GUEST)
    except UsageError as error:
        assert error.message
    else:
        assert parse_fault(format_fault(fault), GUEST) == fault


TOML_VALUES = st.one_of(
    st.integers(-5, 1 << 62),
    st.booleans(),
    st.floats(allow_nan=False),
    st.sampled_from(["rax:5", "skip", "disk0.0", "flip", "kill", "all"]),
    st.lists(st.integers(), max_size=2),
)


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else repr(value)


@settings(max_examples=400)
@given(
    st.lists(st.dictionaries(WORDS.filter(bool), TOML_VALUES, max_size=6), max_size=3),
    st.integers(0, 200),
    st.text(max_size=3),
)
def test_any_file_is_a_plan_or_a_clear_error(faults: list[dict[str, object]], cut: int, junk: str) -> None:
    text = "version = 1\n" + "".join(
        "[[fault]]\n" + "".join(f"{name} = {_toml(value)}\n" for name, value in fault.items()) for fault in faults
    )
    for damaged in (text, text[:-cut] + junk if cut else text + junk):
        try:
            parse_plan(damaged, "plan", GUEST)
        except FtvmError as error:
            assert error.message.startswith("plan")
            assert error.exit_code == 3
