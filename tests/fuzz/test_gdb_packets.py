"""Whatever gdb, or somebody who is not gdb, sends: an answer or none, and the machine stands."""

import io
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ftvm.debug.gdb.packets import MAX_PACKET_BYTES, Reader, Signal, frame
from ftvm.debug.gdb.registers import GDB_REGISTERS, target_description
from ftvm.debug.gdb.stub import After, Stub
from ftvm.debug.gdb.target import Target
from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.output import Output
from ftvm.debug.symbols import Symbols
from ftvm.machine import Machine, MachineConfig
from ftvm.units import MIB
from tests.divergence.machines import kernel


@given(st.binary(max_size=300))
def test_what_is_framed_is_read_back(body: bytes) -> None:
    assert list(Reader().feed(frame(body))) == [body]


@given(st.lists(st.binary(max_size=50), max_size=6), st.integers(1, 7), st.binary(max_size=40))
def test_packets_are_found_however_the_bytes_are_cut(bodies: list[bytes], piece: int, noise: bytes) -> None:
    noise = bytes(byte for byte in noise if byte not in b"$+-\x03")
    stream = noise.join([b"", *(frame(body) for body in bodies)])
    reader = Reader()
    found = [one for at in range(0, len(stream), piece) for one in reader.feed(stream[at : at + piece])]
    assert found == bodies


@given(st.binary(max_size=500))
@example(b"$" + b"x" * (MAX_PACKET_BYTES + 5))
@example(b"$a#zz$b#62\x03")
def test_any_bytes_are_read_and_the_next_packet_is_understood(noise: bytes) -> None:
    reader = Reader()
    list(reader.feed(noise))
    again = list(reader.feed(b"#00" + frame(b"g") + frame(b"g")))
    assert b"g" in again


def test_checksums_are_checked() -> None:
    assert list(Reader().feed(b"$g#00+-\x03")) == [
        Signal.BROKEN, Signal.ACKNOWLEDGED, Signal.REFUSED, Signal.INTERRUPT
    ]  # fmt: skip


def test_the_description_is_what_the_registers_are() -> None:
    import xml.etree.ElementTree as ET

    tree = ET.fromstring(target_description().decode())
    described = [(reg.get("name"), int(reg.get("bitsize") or 0)) for reg in tree.iter("reg")]
    assert described == [(register.name, 8 * register.size) for register in GDB_REGISTERS]


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    with Machine(MachineConfig(kernel("hello"), memory_bytes=16 * MIB, timeout_s=600.0)) as machine:
        desk = Desk(Symbols(), Output(io.StringIO()))
        desk.attach(machine)
        machine.run_until(position=11_000)
        yield Stub(Target(desk), lambda text: None)


_NUMBERS = st.one_of(
    st.sampled_from(["0", "1", "10", "100000", "ffffffffffffffff", "ffffffff81000000", "-1", "", "x", "1" * 30]),
    st.integers(0, 1 << 65).map(lambda number: f"{number:x}"),
)
_ARGUMENTS = st.lists(st.one_of(_NUMBERS, st.sampled_from([",", ":", ";", "=", "0011"])), max_size=6).map("".join)
_HEADS = st.sampled_from(
    [*"?gGpPmMXZzHTq!vQ", "Z0,", "Z1,", "Z2,", "Z4,", "z0,", "z3,", "qXfer:features:read:target.xml:", "qSupported:",
     "qXfer:features:read:other.xml:", "qXfer:memory-map:read::", "vCont;", "vCont?", "qRcmd,", "qfThreadInfo",
     "vFile:"]
)  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(head=_HEADS, arguments=_ARGUMENTS)
@example(head="m", arguments="100000,ffffffffffffffff")
@example(head="P", arguments="0=00")
@example(head="X", arguments="200000,2:ab")
@example(head="Z2,", arguments="ffffffffffffffff,8")
def test_any_packet_is_answered(stub: Stub, head: str, arguments: str) -> None:
    answer, after = stub.answer((head + arguments).encode("latin-1"))
    assert answer is not None and after is After.GO_ON
    assert len(frame(answer)) <= MAX_PACKET_BYTES + 4


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=60).filter(lambda body: body[:1] not in (b"D", b"k", b"c", b"C", b"s", b"S", b"b")))
def test_any_bytes_are_answered(stub: Stub, body: bytes) -> None:
    answer, _ = stub.answer(body)
    assert answer is not None


def test_registers_are_written_as_they_were_read(stub: Stub) -> None:
    before, _ = stub.answer(b"g")
    assert before is not None
    assert stub.answer(b"G" + before) == (b"OK", After.GO_ON)
    assert stub.answer(b"g")[0] == before
    assert stub.answer(b"G00")[0] == b"E01"
