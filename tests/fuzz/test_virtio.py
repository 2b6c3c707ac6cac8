"""Guests that do anything at all to the registers and rings of a disk: the device may break, the host may not."""

import struct
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.module.chips import virtio_pci as v
from ftvm.module.chips.pci import CONFIG_BYTES
from ftvm.module.chips.virtio_blk import VirtioBlk
from ftvm.module.chips.virtio_pci import VirtioState, Wires
from ftvm.module.events import DeviceIn
from ftvm.monitor.block import RequestType
from tests.unit.queues import DESCRIPTORS, DRIVER, INDIRECT, NEXT, WRITE
from tests.unit.test_block import Bench

OFFSETS = st.one_of(
    st.integers(0, 0x40),
    st.sampled_from([v.ISR, v.DEVICE, v.DEVICE + 60, v.NOTIFY, v.NOTIFY + 4]),
    st.integers(0, 0x3FFF),
)
VALUES = st.one_of(st.sampled_from([0, 1, 2, 4, 8, 0xF, 0x40, 0x80, 0xFFFF, 0xFFFF_FFFF]), st.integers(0, 0xFFFF_FFFF))
ACCESS = st.tuples(
    st.sampled_from(["config", "bar0", "bar1"]), st.booleans(), OFFSETS, st.sampled_from([1, 2, 4]), VALUES
)


@settings(max_examples=200, deadline=None)
@given(accesses=st.lists(ACCESS, max_size=60))
def test_any_accesses_leave_a_chip_that_can_be_saved_and_only_kicks_when_it_is_live(
    accesses: list[tuple[str, bool, int, int, int]],
) -> None:
    def kick(queue: int) -> None:
        assert chip.state.live and chip.state.queues[queue].enabled

    chip = VirtioBlk(1 << 20, False, Wires(kick, lambda reason: None, lambda *message: True))
    for where, writes, offset, size, value in accesses:
        offset &= -size
        value &= (1 << 8 * size) - 1
        if where == "config":
            offset %= CONFIG_BYTES
            if writes:
                chip.write(offset, size, value)
            else:
                assert 0 <= chip.read(offset, size) < 1 << 8 * size
        else:
            bar = where == "bar1"
            if writes:
                chip.write_bar(bar, offset % 0x1000 if bar else offset, size, value)
            else:
                assert 0 <= chip.read_bar(bar, offset % 0x1000 if bar else offset, size) < 1 << 32
    saved = msgspec.msgpack.encode(chip.state)
    assert msgspec.msgpack.decode(saved, type=VirtioState) == chip.state


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_any_rings_and_requests_write_inside_ram_only_and_nothing_waits_for_ever(seed: int) -> None:
    random = Random(seed)
    pick = random.randrange
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        ram = bench.image.ram
        ram_bytes = len(ram)
        try:
            for _ in range(4):
                for at in range(16):  # descriptors that lead to a header, to data, to a table, or anywhere
                    place = random.choice([0x10000, 0x20000, 0x100000, pick(ram_bytes), pick(1 << 64)])
                    length = random.choice([1, 16, 512, 4096, 16 * pick(1, 20), pick(1 << 32)])
                    flags = random.choice([0, NEXT, NEXT | WRITE, WRITE, INDIRECT, pick(1 << 16)])
                    struct.pack_into("<QIHH", ram, DESCRIPTORS + 16 * at, place, length, flags, pick(18))
                kind = random.choice([*RequestType, pick(1 << 32)])
                struct.pack_into("<IIQ", ram, 0x10000, kind, 0, random.choice([0, 5, 2047, pick(1 << 64)]))
                struct.pack_into("<H", ram, DRIVER + 2, bench.chip.state.queues[0].next_avail + pick(20) & 0xFFFF)
                for at in range(16):
                    struct.pack_into("<H", ram, DRIVER + 4 + 2 * at, pick(17))
                for event in bench.serve():
                    if isinstance(event, DeviceIn):
                        assert all(0 <= offset <= ram_bytes - len(data) for offset, data in event.pieces())
                assert not bench.half.busy()
                if bench.chip.state.status & v.NEEDS_RESET:
                    bench.chip.write_bar(0, v.DEVICE_STATUS, 1, 0)
                    bench.start()
                bench.commit(bench.image.position + 1)
        finally:
            bench.close()
