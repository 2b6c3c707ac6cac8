"""Split virtqueues: what a good driver puts there is found, and what a bad one does is named."""

import mmap
import struct
from random import Random
from tempfile import TemporaryFile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.memory_map import HIGH_RAM, LOW_RAM_LIMIT
from ftvm.module.chips.virtio_pci import EVENT_INDEX, INDIRECT_DESCRIPTORS
from ftvm.module.events import DeviceIn
from ftvm.monitor.virtqueue import (
    Chain,
    QueueBroken,
    Virtqueue,
    bulk_in,
    front,
    gather,
    size_of,
    without_front,
)
from tests.unit.queues import DESCRIPTORS, DEVICE, DRIVER, INDIRECT, NEXT, WRITE, Rings

RAM_BYTES = 1 << 20


@pytest.fixture
def rings() -> Rings:
    return Rings(bytearray(RAM_BYTES))


def queue(rings: Rings) -> Virtqueue:
    return Virtqueue(rings.ram, 0, rings.state, rings.features)


def refusal(rings: Rings) -> str:
    """Why the queue, or the chain at its head, is refused."""
    with pytest.raises(QueueBroken) as broken:
        it = queue(rings)
        assert it.waiting()
        it.take()
    return str(broken.value)


def test_a_chain_is_its_buffers_in_order(rings: Rings) -> None:
    rings.offer(rings.chain((0x8000, 16, 0), (0x9000, 512, WRITE), (0xA000, 1, WRITE)))
    it = queue(rings)
    assert it.waiting() == 1
    assert it.take() == Chain(0, [(0x8000, 16)], [(0x9000, 512), (0xA000, 1)])
    assert (it.waiting(), it.next_avail) == (0, 1)


def test_an_indirect_table_is_followed_if_it_was_negotiated(rings: Rings) -> None:
    rings.offer(rings.table(0x10000, (0x8000, 16, 0), (0x9000, 1, WRITE)))
    assert "indirect table where there can be none" in refusal(rings)
    rings.features = INDIRECT_DESCRIPTORS
    assert queue(rings).take() == Chain(0, [(0x8000, 16)], [(0x9000, 1)])


def test_indices_wrap(rings: Rings) -> None:
    it = queue(rings)
    for round_ in range(3 * rings.size):
        rings.offer(rings.chain((0x8000 + round_, 1, 0)))
        chain = it.take()
        writes, progress = it.complete([(chain.head, round_)])
        for offset, data in writes:
            rings.ram[offset : offset + len(data)] = data
        assert progress.next_used == round_ + 1
        index, entries = rings.used()
        assert index == round_ + 1
        assert entries[round_ % rings.size] == (chain.head, round_)


@pytest.mark.parametrize("start", [0xFFFE, 0xFFFF])
def test_the_index_of_16_bits_wraps(rings: Rings, start: int) -> None:
    rings.avail_index = start
    state = rings.state
    state.next_avail = state.next_used = start
    for _ in range(4):
        rings.offer(rings.chain((0x8000, 1, 0)))
    it = Virtqueue(rings.ram, 0, state, 0)
    assert it.waiting() == 4
    heads = [it.take().head for _ in range(4)]
    _, progress = it.complete([(head, 0) for head in heads])
    assert progress.next_avail == progress.next_used == (start + 4) & 0xFFFF


def test_entries_that_wrap_are_two_writes(rings: Rings) -> None:
    state = rings.state
    state.next_avail = state.next_used = rings.avail_index = 6
    for _ in range(4):
        rings.offer(rings.chain((0x8000, 1, 0)))
    it = Virtqueue(rings.ram, 0, state, 0)
    writes, _ = it.complete([(it.take().head, 9) for _ in range(4)])
    places = [(offset, len(data)) for offset, data in writes]
    assert places == [(DEVICE + 4 + 48, 16), (DEVICE + 4, 16), (DEVICE + 2, 2)]


@pytest.mark.parametrize(("flags", "wanted"), [(0, True), (1, False), (2, True)])
def test_without_event_index_a_flag_says_whether_to_interrupt(rings: Rings, flags: int, wanted: bool) -> None:
    rings.offer(rings.chain((0x8000, 1, 0)))
    rings.suppress(flags)
    it = queue(rings)
    assert it.complete([(it.take().head, 0)])[1].interrupt is wanted


@pytest.mark.parametrize(("event", "wanted"), [(0, True), (2, True), (3, False), (0xFFFF, False)])
def test_with_event_index_the_driver_names_the_entry_it_waits_for(rings: Rings, event: int, wanted: bool) -> None:
    rings.features = EVENT_INDEX
    for _ in range(3):
        rings.offer(rings.chain((0x8000, 1, 0)))
    rings.suppress(event)
    it = queue(rings)
    writes, progress = it.complete([(it.take().head, 0) for _ in range(3)])
    assert progress.interrupt is wanted
    for offset, data in writes:
        rings.ram[offset : offset + len(data)] = data
    assert rings.avail_event() == 3


def test_progress_alone_interrupts_nobody(rings: Rings) -> None:
    rings.features = EVENT_INDEX
    rings.suppress(0xFFFF)
    rings.offer(rings.chain((0x8000, 1, 0)))
    it = queue(rings)
    it.take()
    _, progress = it.complete([])
    assert (progress.next_avail, progress.next_used, progress.interrupt) == (1, 0, False)


# ---- what no driver may do ----


def test_rings_must_be_in_ram_and_aligned(rings: Rings) -> None:
    for area, address, why in (
        ("descriptors", RAM_BYTES - 16, "not inside RAM"),
        ("driver_area", RAM_BYTES, "not inside RAM"),
        ("device_area", (1 << 64) - 4, "not inside RAM"),
        ("descriptors", 8, "not aligned"),
        ("driver_area", 1, "not aligned"),
        ("device_area", 2, "not aligned"),
    ):
        state = rings.state
        setattr(state, area, address)
        with pytest.raises(QueueBroken, match=why):
            Virtqueue(rings.ram, 0, state, 0)


def test_a_queue_that_is_none(rings: Rings) -> None:
    for change in ({"enabled": False}, {"size": 0}, {"size": 12}):
        state = rings.state
        for name, value in change.items():
            setattr(state, name, value)
        with pytest.raises(QueueBroken):
            Virtqueue(rings.ram, 0, state, 0)


def test_a_loop(rings: Rings) -> None:
    rings.descriptor(0, 0x8000, 1, NEXT, 1)
    rings.descriptor(1, 0x8000, 1, NEXT, 0)
    rings.offer(0)
    assert refusal(rings) == "a chain of more than 8 descriptors"


def test_a_loop_in_an_indirect_table(rings: Rings) -> None:
    rings.features = INDIRECT_DESCRIPTORS
    rings.table(0x10000, (0x8000, 1, 0), (0x8000, 1, 0))
    struct.pack_into("<QIHH", rings.ram, 0x10010, 0x8000, 1, NEXT, 0)
    rings.offer(0)
    assert refusal(rings) == "a chain of more than 8 descriptors"


def test_an_indirect_table_longer_than_the_queue(rings: Rings) -> None:
    rings.features = INDIRECT_DESCRIPTORS
    rings.offer(rings.table(0x10000, *(9 * [(0x8000, 1, 0)])))
    assert refusal(rings) == "a chain of more than 8 descriptors"


def test_indirect_within_indirect(rings: Rings) -> None:
    rings.features = INDIRECT_DESCRIPTORS
    rings.offer(rings.table(0x10000, (0x20000, 16, INDIRECT)))
    assert "where there can be none" in refusal(rings)


def test_whether_an_indirect_table_may_be_written_means_nothing(rings: Rings) -> None:
    rings.features = INDIRECT_DESCRIPTORS
    rings.table(0x10000, (0x20000, 16, 0), (0x21000, 1, WRITE))
    rings.descriptor(0, 0x10000, 32, INDIRECT | WRITE)
    rings.offer(0)
    chain = queue(rings).take()
    assert (chain.readable, chain.writable) == ([(0x20000, 16)], [(0x21000, 1)])


@pytest.mark.parametrize(("length", "flags"), [(15, INDIRECT), (17, INDIRECT), (32, INDIRECT | NEXT)])
def test_a_table_that_is_none(rings: Rings, length: int, flags: int) -> None:
    rings.features = INDIRECT_DESCRIPTORS
    rings.descriptor(0, 0x10000, length, flags, 1)
    rings.offer(0)
    assert "an indirect table of" in refusal(rings)


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (RAM_BYTES - 1, 2),
        (RAM_BYTES, 1),
        (0, RAM_BYTES + 1),
        (0xFFFF_FFFF_FFFF_FFFF, 1),
        (0xFFFF_FFFF_FFFF_FFF0, 0x20),
        (LOW_RAM_LIMIT - 1, 2),
        (HIGH_RAM, 1),
    ],
)
def test_buffers_outside_ram(rings: Rings, address: int, length: int) -> None:
    rings.offer(rings.chain((address, length, 0)))
    assert "is not inside RAM" in refusal(rings)


def test_the_hole_below_4_gib_parts_the_memory() -> None:
    with TemporaryFile() as file:  # of which little is ever touched
        file.truncate(LOW_RAM_LIMIT + 4096)
        ram = mmap.mmap(file.fileno(), LOW_RAM_LIMIT + 4096)
    for address, length, offset in (
        (LOW_RAM_LIMIT - 2, 2, LOW_RAM_LIMIT - 2),
        (HIGH_RAM, 4096, LOW_RAM_LIMIT),
        (HIGH_RAM + 4095, 1, LOW_RAM_LIMIT + 4095),
    ):
        rings = Rings(ram)
        rings.offer(rings.chain((address, length, 0)))
        assert queue(rings).take().readable == [(offset, length)]
    for address, length in ((LOW_RAM_LIMIT - 1, 2), (LOW_RAM_LIMIT, 1), (HIGH_RAM - 1, 2), (HIGH_RAM, 4097)):
        rings = Rings(ram)
        rings.offer(rings.chain((address, length, 0)))
        assert "is not inside RAM" in refusal(rings)


def test_no_bytes_at_all(rings: Rings) -> None:
    rings.offer(rings.chain((0x8000, 0, 0)))
    assert refusal(rings) == "a buffer of no bytes"


def test_to_read_behind_to_write(rings: Rings) -> None:
    rings.offer(rings.chain((0x8000, 1, WRITE), (0x9000, 1, 0)))
    assert refusal(rings) == "a buffer to read behind one to write"


@pytest.mark.parametrize("following", [8, 0xFFFF])
def test_a_descriptor_beyond_the_table(rings: Rings, following: int) -> None:
    rings.descriptor(0, 0x8000, 1, NEXT, following)
    rings.offer(0)
    assert refusal(rings) == f"descriptor {following} of 8"


def test_a_head_beyond_the_table(rings: Rings) -> None:
    rings.offer(8)
    assert refusal(rings) == "descriptor 8 of 8"


def test_an_index_that_jumps(rings: Rings) -> None:
    struct.pack_into("<H", rings.ram, DRIVER + 2, 9)
    with pytest.raises(QueueBroken, match="9 entries ahead of 8"):
        queue(rings).waiting()


# ---- buffers ----


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    cut=st.integers(0, 240),
    data=st.binary(max_size=240),
)
def test_segments_behave_like_one_buffer(sizes: list[int], cut: int, data: bytes) -> None:
    ram = bytearray(range(256)) * 8
    segments = [(at * 50, size) for at, size in enumerate(sizes)]
    whole = gather(ram, segments)
    cut = min(cut, len(whole))
    assert size_of(segments) == len(whole)
    assert gather(ram, front(segments, cut)) == whole[:cut]
    assert gather(ram, without_front(segments, cut)) == whole[cut:]
    data = data[: len(whole)]
    for offset, piece in DeviceIn("disk0", bulk=[bulk_in(segments, data)]).pieces():
        ram[offset : offset + len(piece)] = piece
    assert gather(ram, segments) == data + whole[len(data) :]


# ---- anything ----


@settings(max_examples=300)
@given(seed=st.integers(0, 1 << 32), features=st.sampled_from([0, INDIRECT_DESCRIPTORS, EVENT_INDEX | 1 << 28]))
def test_whatever_stands_in_memory_only_ram_is_named_and_it_ends(seed: int, features: int) -> None:
    random = Random(seed)
    pick = random.randrange
    ram = bytearray(1 << 15)
    for at in range(DESCRIPTORS, DESCRIPTORS + 16 * 8, 16):
        address = pick(len(ram)) if pick(8) else pick(1 << 64)
        length = 16 * pick(1, 9) if pick(4) else pick(1 << 32)
        struct.pack_into("<QIHH", ram, at, address, length, pick(8), pick(10))
    ram[0x5000:] = random.randbytes(len(ram) - 0x5000)
    rings = Rings(ram, features=features)
    for _ in range(pick(12)):
        rings.offer(pick(10))
    before = bytes(ram)
    try:
        it = queue(rings)
        while it.waiting():
            chain = it.take()
            for offset, size in (*chain.readable, *chain.writable):
                assert 0 <= offset < offset + size <= len(ram)
            assert len(chain.readable) + len(chain.writable) <= rings.size
            for offset, data in it.complete([(chain.head, 1)])[0]:
                assert 0 <= offset < offset + len(data) <= len(ram)
    except QueueBroken:
        pass
    assert ram == before
