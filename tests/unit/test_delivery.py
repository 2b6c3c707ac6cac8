"""What devices write reaches RAM past the mailbox, and nobody can tell from what taking the inputs would have done."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm._native import ffi
from ftvm.module import events
from ftvm.module.board import StopKind
from ftvm.module.events import Bulk, ConsoleIn, DeviceIn, Input, Placed, Poke, QueueProgress
from ftvm.module.link import Report
from ftvm.module.registers import ARCH_BYTES
from ftvm.monitor.delivery import Delivery
from ftvm.monitor.image import ByteRun, VerifiedImage, WrittenMemory
from ftvm.units import MIB, PAGE_BYTES

RAM_BYTES = 2 * MIB


class Bench:
    """An image, and modules that do nothing but take inputs and write as tests say. All RAM is zero at first."""

    def __init__(self, modules: int = 2) -> None:
        self.image = VerifiedImage(RAM_BYTES, threads=2)
        self.rams = [bytearray(RAM_BYTES) for _ in range(modules)]
        self._logs: list[Any] = []

    def deliver(self, *inputs: Input) -> list[Input]:
        """The command."""
        delivery = Delivery(inputs)
        delivery.place([ffi.from_buffer(ram) for ram in self.rams], self.image)
        return [*events.decode_inputs(delivery.payload)] if delivery.payload else []

    def compare(self, *logged: Sequence[int]) -> tuple[int, list[ByteRun]]:
        """When these pages are in the modules' logs."""
        self._logs = [ffi.new("uint32_t[]", [*pages]) for pages in logged or ((), ())]
        return self.image.compare(
            [
                WrittenMemory(ffi.from_buffer(ram), log, len(log))
                for ram, log in zip(self.rams, self._logs, strict=False)
            ]
        )

    def commit(self) -> None:
        self.image.commit(Report(StopKind.POSITION, 42, 0, bytes(ARCH_BYTES), b"chips", b"", b""))


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.image.close()


def entered(inputs: Sequence[Input], ram: bytearray | None = None) -> bytearray:
    """What becomes of RAM when modules take these."""
    ram = bytearray(RAM_BYTES) if ram is None else ram
    for event in inputs:
        pieces = event.pieces() if isinstance(event, DeviceIn) else event.memory if isinstance(event, Poke) else ()
        for offset, data in pieces:
            ram[offset : offset + len(data)] = data
    return ram


DATA = bytes(range(256)) * 1000
SEGMENTS = [(10, 5000), (PAGE_BYTES * 7, len(DATA) - 5000)]
QUEUES = [QueueProgress(0, 1, 1, True)]
DISK_IN = DeviceIn("disk0", [(0x80000, b"ring"), (0x90000, b"\0")], QUEUES, [Bulk(SEGMENTS, DATA)])


# ---- into the modules ----


def test_what_devices_write_is_placed_in_every_module_and_the_command_says_where(bench: Bench) -> None:
    told, *others = bench.deliver(ConsoleIn(b"x"), DISK_IN)
    assert bench.rams == 2 * [entered([DISK_IN])]
    assert isinstance(told, Placed)
    assert list(memoryview(told.places).cast("Q")) == [*SEGMENTS[0], *SEGMENTS[1], 0x80000, 4, 0x90000, 1]
    assert others == [ConsoleIn(b"x"), DeviceIn("disk0", [], QUEUES)]


def test_without_devices_the_command_is_what_is_logged() -> None:
    assert Delivery([ConsoleIn(b"x")]).payload == events.encode([ConsoleIn(b"x")])
    assert Delivery([]).payload == b""


def test_views_are_placed_as_the_bytes_that_they_show(bench: Bench) -> None:
    shown = cast(bytes, memoryview(bytearray(b"not this"))[4:])
    bench.deliver(DeviceIn("nic0", [(16, shown)], [], [Bulk([(8, 4)], shown)]))
    assert bench.rams[0][:24] == bytes(8) + b"this" + bytes(4) + b"this" + bytes(4)


def test_nothing_is_placed_before_the_instructions_of_a_poke_are_run(bench: Bench) -> None:
    later = DeviceIn("disk0", [(PAGE_BYTES, b"later")])
    told, *others = bench.deliver(DISK_IN, Poke(1), later)
    assert bench.rams == 2 * [entered([DISK_IN])]
    assert isinstance(told, Placed) and others == [DeviceIn("disk0", [], QUEUES), Poke(1), later]


def test_requests_with_one_buffer_fill_it_in_their_order_in_every_module(bench: Bench) -> None:
    """However many threads place them."""
    bulk = [Bulk([(0, 512 * PAGE_BYTES)], bytes([number]) * 512 * PAGE_BYTES) for number in range(5)]
    bench.deliver(DeviceIn("disk0", bulk=bulk))
    assert bench.rams == 2 * [b"\x04" * 512 * PAGE_BYTES]
    bench.compare()
    bench.commit()
    assert bench.image.ram[:] == bench.rams[0]


@pytest.mark.parametrize(
    "bulk",
    [
        Bulk([(RAM_BYTES - 1, 2)], b"xx"),
        Bulk([(RAM_BYTES + 1, 0)], b""),
        Bulk([(1, (1 << 64) - 1)], b"xx"),
        Bulk([(0, 1), (8, 2)], b"xx"),
        Bulk([(0, 1)], b"xx"),
    ],
)
def test_what_does_not_fit_is_placed_nowhere(bench: Bench, bulk: Bulk) -> None:
    with pytest.raises(ValueError, match="not inside RAM"):
        bench.deliver(DeviceIn("disk0", bulk=[Bulk([(5, 1)], b"x"), bulk]))
    assert not any(bench.rams[0])
    bench.compare()
    assert bench.image.compared_pages() == []


_places = st.tuples(st.integers(0, 6 * PAGE_BYTES), st.integers(1, 2 * PAGE_BYTES))
_bulks = st.builds(
    lambda places, seed: Bulk(places, bytes((seed + at // 97) % 251 + 1 for at in range(sum(n for _, n in places)))),
    st.lists(_places, min_size=1, max_size=3),
    st.integers(0, 250),
)
_writes = st.tuples(st.integers(0, 8 * PAGE_BYTES), st.binary(max_size=9))
_devices = st.builds(
    lambda writes, bulk: DeviceIn("disk0", writes, [], bulk),
    st.lists(_writes, max_size=3),
    st.lists(_bulks, max_size=2),
)
_inputs = st.one_of(
    _devices,
    st.builds(lambda memory: Poke(0, memory), st.lists(_writes, max_size=1)),
    st.just(ConsoleIn(b"x")),
)


@settings(max_examples=150, deadline=None)
@given(inputs=st.lists(_inputs, max_size=4))
def test_any_delivery_does_what_its_inputs_do_one_after_the_other(inputs: list[Input]) -> None:
    bench = Bench()
    command = bench.deliver(*inputs)
    expected = entered(inputs)
    assert [entered(command, ram) for ram in bench.rams] == 2 * [expected]
    assert [type(event) for event in command if not isinstance(event, Placed)] == [type(event) for event in inputs]
    bench.image.close()


# ---- into the image ----


@settings(max_examples=150, deadline=None)
@given(inputs=st.lists(_devices, max_size=3), stores=st.lists(_writes, max_size=4))
def test_the_commit_takes_what_was_placed_and_what_the_guest_wrote_there(
    inputs: list[Input], stores: list[tuple[int, bytes]]
) -> None:
    bench = Bench()
    bench.deliver(*inputs)
    written = {page for at, data in stores for page in range(at // PAGE_BYTES, (at + len(data) - 1) // PAGE_BYTES + 1)}
    for ram in bench.rams:
        entered([Poke(0, stores)], ram)
    assert bench.compare(sorted(written), sorted(written)) == (0, [])
    bench.commit()
    assert bench.image.ram[:] == bench.rams[0]
    bench.image.close()


def test_a_flip_where_data_were_placed_does_not_reach_the_image_and_a_scrub_finds_it(bench: Bench) -> None:
    bench.deliver(DISK_IN)
    bench.rams[0][0x7123] ^= 4
    assert bench.compare() == (0, [])
    bench.commit()
    assert bench.image.ram[:] == entered([DISK_IN]) == bench.rams[1]
    memories = [WrittenMemory(ffi.from_buffer(ram), ffi.NULL, 0) for ram in bench.rams]
    assert bench.image.scrub(memories, 0, RAM_BYTES // PAGE_BYTES) == (1, [ByteRun(0x7123, 1, (0,))])


def test_where_a_module_wrote_too_the_page_is_compared(bench: Bench) -> None:
    """Even if only one of them says so."""
    bench.deliver(DISK_IN)
    bench.rams[1][0x7123] ^= 4
    assert bench.compare((), [7]) == (1, [ByteRun(0x7123, 1, (1,))])
    bench.rams[0][0x7123] ^= 4
    assert bench.compare((), [7]) == (0, [])
    bench.commit()
    assert bench.image.ram[:] == bench.rams[0] == bench.rams[1]


@pytest.mark.parametrize("log", [[1], [1 << 30]])
def test_going_back_takes_back_what_was_placed(bench: Bench, log: list[int]) -> None:
    """Also where a log makes no sense."""
    bench.deliver(DISK_IN)
    try:
        bench.compare(log, log)
    except Exception as fault:  # noqa: BLE001 - of the log
        assert fault.args == (0,)
    for ram in bench.rams:
        bench.image.restore(ffi.from_buffer(ram), everywhere=False)
    assert bench.rams == 2 * [bytes(RAM_BYTES)]


def test_what_was_placed_for_an_epoch_that_was_given_up_is_forgotten(bench: Bench) -> None:
    bench.deliver(DISK_IN)
    bench.deliver()
    bench.compare()
    bench.commit()
    assert not any(bench.image.ram[:])


def test_pages_that_were_placed_are_brought_to_a_module_that_returns_and_kept_in_checkpoints(bench: Bench) -> None:
    kept = bench.image.keep()
    bench.deliver(DISK_IN)
    bench.compare()
    bench.commit()
    pages = {offset // PAGE_BYTES for at, size in SEGMENTS for offset in range(at, at + size)} | {0x80, 0x90}
    pending = ffi.new("uint8_t[]", RAM_BYTES // PAGE_BYTES)
    bench.image.mark_compared(pending)
    assert {page for page, marked in enumerate(pending) if marked} == pages
    ffi.memmove(pending, bytes(len(pending)), len(pending))
    bench.image.mark_content(pending)
    assert {page for page, marked in enumerate(pending) if marked} == pages
    assert not bench.image.holds(kept)
    assert set(bench.image.put_back(kept, ())) == pages
    assert not any(bench.image.ram[:])
