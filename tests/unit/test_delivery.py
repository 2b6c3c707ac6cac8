"""Bulk data reach RAM past the mailbox, and nothing can be told from what the encoded inputs would have done."""

from collections.abc import Sequence
from typing import cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm._native import ffi
from ftvm.module import events
from ftvm.module.events import Bulk, ConsoleIn, DeviceIn, Input, Placed, Poke, QueueProgress
from ftvm.monitor.delivery import Delivery
from ftvm.monitor.image import VerifiedImage
from ftvm.units import MIB, PAGE_BYTES

RAM_BYTES = 2 * MIB


def entered(ram: bytearray, inputs: Sequence[Input]) -> bytearray:
    """What becomes of RAM when modules take these."""
    for event in inputs:
        pieces = event.pieces() if isinstance(event, DeviceIn) else event.memory if isinstance(event, Poke) else ()
        for offset, data in pieces:
            ram[offset : offset + len(data)] = data
    return ram


def delivered(inputs: Sequence[Input], modules: int = 2) -> tuple[list[bytearray], list[Input]]:
    """RAM of each module after it, and the command."""
    image = VerifiedImage(RAM_BYTES, threads=2)
    rams = [bytearray(RAM_BYTES) for _ in range(modules)]
    delivery = Delivery(inputs)
    delivery.place([ffi.from_buffer(ram) for ram in rams], image)
    image.close()
    command = events.decode_inputs(delivery.payload) if delivery.payload else []
    return [entered(ram, command) for ram in rams], command


def test_bulk_is_placed_in_every_module_and_not_in_the_command() -> None:
    data = bytes(range(256)) * 1000
    segments = [(10, 5000), (PAGE_BYTES * 7, len(data) - 5000)]
    ring = (0x8000, b"ring")
    queues = [QueueProgress(0, 1, 1, True)]
    inputs = [DeviceIn("disk0", [ring], queues, [Bulk(segments, data)]), ConsoleIn(b"x")]
    rams, command = delivered(inputs, modules=3)
    assert rams == 3 * [entered(bytearray(RAM_BYTES), inputs)]
    told, *others = command
    assert isinstance(told, Placed)
    assert list(memoryview(told.segments).cast("Q")) == [at for segment in segments for at in segment]
    assert others == [DeviceIn("disk0", [ring], queues), ConsoleIn(b"x")]


def test_without_bulk_the_command_is_what_is_logged() -> None:
    inputs = [ConsoleIn(b"x"), DeviceIn("disk0", [(1, b"x")])]
    assert Delivery(inputs).payload == events.encode(inputs)
    assert Delivery([]).payload == b""


def test_views_are_placed_as_the_bytes_that_they_show() -> None:
    shown = cast(bytes, memoryview(bytearray(b"not this"))[4:])
    rams, _ = delivered([DeviceIn("nic0", bulk=[Bulk([(8, 4)], shown)])])
    assert rams[0][:16] == bytes(8) + b"this" + bytes(4)


@pytest.mark.parametrize(
    "before",
    [DeviceIn("nic0", [(PAGE_BYTES, b"first")]), Poke(1, [(PAGE_BYTES, b"first")])],
)
def test_what_was_written_before_bulk_is_overwritten_by_it(before: Input) -> None:
    bulk = DeviceIn("disk0", bulk=[Bulk([(PAGE_BYTES - 2, 5)], b"later")])
    rams, command = delivered([before, bulk])
    assert rams[0][PAGE_BYTES - 2 : PAGE_BYTES + 5] == b"later" + b"st"
    assert command == [before, bulk]


def test_requests_with_one_buffer_fill_it_in_their_order_in_every_module() -> None:
    """However many threads place them."""
    bulk = [Bulk([(0, 512 * PAGE_BYTES)], bytes([number]) * 512 * PAGE_BYTES) for number in range(5)]
    for ram in delivered([DeviceIn("disk0", bulk=bulk)])[0]:
        assert ram == b"\x04" * 512 * PAGE_BYTES


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
def test_what_does_not_fit_is_placed_nowhere(bulk: Bulk) -> None:
    image = VerifiedImage(RAM_BYTES, threads=2)
    ram = bytearray(RAM_BYTES)
    with pytest.raises(ValueError, match="not inside RAM"):
        Delivery([DeviceIn("disk0", bulk=[Bulk([(5, 1)], b"x"), bulk])]).place([ffi.from_buffer(ram)], image)
    assert not any(ram)
    image.close()


_places = st.tuples(st.integers(0, 6 * PAGE_BYTES), st.integers(1, 2 * PAGE_BYTES))
_bulks = st.builds(
    lambda places, seed: Bulk(places, bytes((seed + at // 97) % 251 + 1 for at in range(sum(n for _, n in places)))),
    st.lists(_places, min_size=1, max_size=3),
    st.integers(0, 250),
)
_writes = st.tuples(st.integers(0, 8 * PAGE_BYTES), st.binary(max_size=9))
_inputs = st.one_of(
    st.builds(
        lambda writes, bulk: DeviceIn("disk0", writes, [], bulk),
        st.lists(_writes, max_size=3),
        st.lists(_bulks, max_size=2),
    ),
    st.builds(lambda memory: Poke(0, memory), st.lists(_writes, max_size=1)),
    st.just(ConsoleIn(b"x")),
)


@settings(max_examples=200, deadline=None)
@given(inputs=st.lists(_inputs, max_size=4))
def test_any_delivery_does_what_its_inputs_do_one_after_the_other(inputs: list[Input]) -> None:
    rams, command = delivered(inputs)
    assert rams == 2 * [entered(bytearray(RAM_BYTES), inputs)]
    kept = [event for event in command if not isinstance(event, Placed)]
    assert [_without_bulk(event) for event in kept] == [_without_bulk(event) for event in inputs]


def _without_bulk(event: Input) -> Input:
    return msgspec.structs.replace(event, bulk=[]) if isinstance(event, DeviceIn) else event
