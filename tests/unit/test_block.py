"""The I/O half of a disk: what a driver asks for is done on the files, and comes back as inputs."""

import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.errors import HostError, UsageError
from ftvm.module.board import BoardConfig, DiskConfig, unplugged
from ftvm.module.chips import virtio_pci as v
from ftvm.module.chips.pci import COMMAND, COMMAND_BUS_MASTER
from ftvm.module.chips.virtio_blk import FLUSH, MAX_CLEAR_SECTORS, MAX_REQUEST_BYTES
from ftvm.module.events import Bulk, DeviceBroken, DeviceIn, Input, encode
from ftvm.monitor import block
from ftvm.monitor.bays import Bays, DiskFiles
from ftvm.monitor.block import S_IOERR, S_OK, S_UNSUPP, Block, RequestType
from ftvm.monitor.devices import FOREVER_S, Devices, data_bytes
from ftvm.monitor.eventlog import EventLog
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.poller import Poller
from ftvm.storage.faulty import Fault, FaultModel, FaultyFile
from ftvm.storage.host import LocalFile
from ftvm.units import MIB
from tests.unit.queues import DRIVER, WRITE, Rings

RAM_BYTES = 8 * MIB
DISK_BYTES = MIB
HEADER, DATA, STATUS = 0x10000, 0x100000, 0x11000
UNTOUCHED = 0xEE


class Bench:
    """A disk of two legs, and a driver that has negotiated ``features``."""

    features = v.EVENT_INDEX | v.INDIRECT_DESCRIPTORS | FLUSH

    def __init__(self, folder: Path, *, read_only: bool = False, real_time: bool = False, legs: int = 2) -> None:
        self.files = [folder / "a.img", folder / "b.img"][:legs]
        for path in self.files:
            path.write_bytes(bytes(DISK_BYTES))
        self.events: list[tuple[str, str]] = []
        log = EventLog(lambda: 0)
        log.follow(lambda event: self.events.append((event.kind, event.subject)))
        self.bays = Bays([DiskFiles(tuple(self.files), read_only)], log)
        self.image = VerifiedImage(RAM_BYTES, threads=1)
        self.poller = Poller()
        self.board = unplugged(BoardConfig(ram_bytes=RAM_BYTES, disks=self.bays.configs))
        self.chip = self.board.devices["disk0"]
        self.half: Block = self.bays.plug_in(self.image, self.poller, real_time=real_time)[0]
        self.chip.write(COMMAND, 2, COMMAND_BUS_MASTER)
        self.start()
        self._requests = 0

    def start(self) -> None:
        """Both rings empty, and the device at work."""
        self.rings = Rings(self.image.ram, size=16, features=self.features)
        self.image.ram[DRIVER : DRIVER + 4] = bytes(4)
        state = self.chip.state
        state.driver_features = self.rings.features | v.VERSION_1
        state.status = v.ACKNOWLEDGE | v.DRIVER | v.FEATURES_OK | v.DRIVER_OK
        state.queues = [self.rings.state]
        self.commit()

    def commit(self, position: int = 0) -> None:
        """What the chip is now, is verified."""
        self.board.state_changed()  # not by the guest
        self.image.board = self.board.save()
        self.image.position = position

    def close(self) -> None:
        self.bays.close()
        self.poller.close()
        self.image.close()

    def ask(self, kind: int, sector: int, *buffers: tuple[int, int, int]) -> int:
        """Make a request available; where its status will be."""
        number = self._requests
        self._requests += 1
        header, status = HEADER + 32 * number, STATUS + number
        struct.pack_into("<IIQ", self.image.ram, header, kind, 0, sector)
        self.image.ram[status] = UNTOUCHED
        table = 0x20000 + 0x1000 * number
        self.rings.offer(self.rings.table(table, (header, 16, 0), *buffers, (status, 1, WRITE)))
        return status

    def kick(self) -> None:
        self.half.kick(0)

    def wait(self) -> None:
        while self.half.patience_s() > 0:
            self.poller.wait(1.0)

    def enter(self, room: int = 1 << 20) -> list[Input]:
        """Take what there is into memory and chip, as the modules do."""
        inputs = self.half.take(room)
        for event in inputs:
            if isinstance(event, DeviceIn):
                for offset, data in event.pieces():
                    self.image.ram[offset : offset + len(data)] = data
                for queue in event.queues:
                    self.chip.complete(queue.index, queue.next_avail, queue.next_used, queue.interrupt)
            elif isinstance(event, DeviceBroken):
                self.chip.fail()
        self.commit(self.image.position)
        return inputs

    def serve(self) -> list[Input]:
        """Kick, wait, enter all."""
        self.kick()
        inputs = []
        self.wait()
        while self.half.pending():
            inputs += self.enter()
            self.wait()
        return inputs

    def do(self, kind: int, sector: int, *buffers: tuple[int, int, int]) -> int:
        """One request; its status."""
        status = self.ask(kind, sector, *buffers)
        self.serve()
        return self.image.ram[status]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_what_is_written_is_on_all_legs_and_can_be_read(bench: Bench) -> None:
    ram = bench.image.ram
    ram[DATA : DATA + 1024] = bytes(range(256)) * 4
    assert bench.do(RequestType.OUT, 3, (DATA, 512, 0), (DATA + 512, 512, 0)) == S_OK
    assert bench.do(RequestType.FLUSH, 0) == S_OK
    for path in bench.files:
        assert path.read_bytes()[3 * 512 : 5 * 512] == bytes(range(256)) * 4
    assert bench.do(RequestType.IN, 3, (DATA + 4096, 100, WRITE), (DATA + 8192, 924, WRITE)) == S_OK
    assert ram[DATA + 4096 : DATA + 4196] + ram[DATA + 8192 : DATA + 8192 + 924] == bytes(range(256)) * 4
    index, entries = bench.rings.used()
    assert index == 3
    assert [written for _, written in entries[:3]] == [1, 1, 1025]


def test_many_requests_of_one_kick_come_back_in_order_as_one_input(bench: Bench) -> None:
    statuses = [bench.ask(RequestType.IN, number, (DATA + 512 * number, 512, WRITE)) for number in range(10)]
    inputs = bench.serve()
    assert len(inputs) == 1
    assert [bench.image.ram[status] for status in statuses] == 10 * [S_OK]
    assert [head for head, _ in bench.rings.used()[1][:10]] == list(range(10))
    assert bench.rings.avail_event() == 10
    assert not bench.half.busy()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A slow leg is one that waits for this."""
    gate = threading.Event()
    monkeypatch.setattr(FaultyFile, "_slow_down", lambda file: gate.wait(60))
    return gate


def test_the_guest_stands_still_until_all_is_done(bench: Bench, gate: threading.Event) -> None:
    assert bench.half.patience_s() == 0
    bench.image.ram[DATA] = 1
    bench.half.mirror.inject(0, Fault(FaultModel.SLOW))
    bench.ask(RequestType.OUT, 0, (DATA, 512, 0))
    bench.kick()
    assert bench.half.patience_s() == FOREVER_S
    assert bench.half.busy() and not bench.half.pending()
    gate.set()
    bench.wait()
    assert bench.half.pending()


def test_with_real_time_the_guest_goes_on_and_gets_it_later(tmp_path: Path, gate: threading.Event) -> None:
    bench = Bench(tmp_path, real_time=True)
    bench.half.mirror.inject(0, Fault(FaultModel.SLOW))
    status = bench.ask(RequestType.OUT, 0, (DATA, 512, 0))
    bench.kick()
    bench.wait()
    assert bench.half.busy()
    bench.enter()  # what was taken is told at once, so that the driver kicks again for more
    assert bench.rings.avail_event() == 1
    bench.commit(position=1000)
    gate.set()
    while not bench.half.pending():
        bench.poller.wait(1.0)
    assert bench.image.ram[status] == UNTOUCHED
    bench.enter()
    assert bench.image.ram[status] == S_OK
    bench.close()


def test_requests_of_a_driver_that_reset_the_device_are_forgotten(tmp_path: Path, gate: threading.Event) -> None:
    bench = Bench(tmp_path, real_time=True)
    bench.half.mirror.inject(0, Fault(FaultModel.SLOW))
    status = bench.ask(RequestType.OUT, 0, (DATA, 512, 0))
    bench.kick()
    bench.chip.write_bar(0, v.DEVICE_STATUS, 1, 0)
    bench.start()
    bench.commit(position=1000)
    bench.enter()
    assert not bench.half.busy()
    before = bytes(bench.image.ram)
    gate.set()
    bench.bays.close()  # when all that was begun has ended
    assert not bench.half.busy() and not bench.half.pending()
    assert bench.image.ram[status] == UNTOUCHED
    assert bench.image.ram[:] == before
    assert bench.files[0].read_bytes()[:512] == bench.files[1].read_bytes()[:512]
    bench.close()


def test_much_data_comes_in_pieces_and_is_given_back_with_the_last_one(bench: Bench) -> None:
    pattern = bytes(range(256)) * 1024
    for path in bench.files:
        with path.open("r+b") as file:
            file.write(pattern)
    status = bench.ask(RequestType.IN, 0, (DATA, 100_000, WRITE), (DATA + 200_000, 162_144, WRITE))
    bench.kick()
    pieces = 0
    while bench.half.pending():
        assert bench.image.ram[status] == UNTOUCHED
        bench.enter(room=50_000)
        pieces += 1
    assert pieces == 6
    assert bench.image.ram[status] == S_OK
    got = bench.image.ram[DATA : DATA + 100_000] + bench.image.ram[DATA + 200_000 : DATA + 362_144]
    assert got == pattern


def test_what_is_too_much_at_once_waits_in_the_queue(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block, "FLIGHT_BYTES", 2048)
    statuses = [bench.ask(RequestType.IN, 0, (DATA + 4096 * number, 1024, WRITE)) for number in range(7)]
    inputs = bench.serve()
    assert len(inputs) == 4
    assert [bench.image.ram[status] for status in statuses] == 7 * [S_OK]
    assert bench.rings.avail_event() == 7


def test_get_id_names_the_bay(bench: Bench) -> None:
    bench.image.ram[DATA : DATA + 21] = 21 * b"x"
    assert bench.do(RequestType.GET_ID, 0, (DATA, 20, WRITE)) == S_OK
    assert bench.image.ram[DATA : DATA + 21] == b"disk0".ljust(20, b"\0") + b"x"


@pytest.mark.parametrize("kind", [RequestType.DISCARD, RequestType.WRITE_ZEROES])
def test_ranges_can_be_cleared(bench: Bench, kind: RequestType) -> None:
    bench.image.ram[DATA : DATA + 8192] = 8192 * b"x"
    assert bench.do(RequestType.OUT, 0, (DATA, 8192, 0)) == S_OK
    struct.pack_into("<QIIQII", bench.image.ram, HEADER + 0x800, 2, 2, 0, 8, 1, 0)
    assert bench.do(kind, 0, (HEADER + 0x800, 32, 0)) == S_OK
    for path in bench.files:
        sectors = [path.read_bytes()[512 * at : 512 * at + 512] for at in range(16)]
        assert [at for at in range(16) if sectors[at] == bytes(512)] == [2, 3, 8]


@pytest.mark.parametrize(
    ("kind", "sector", "sectors", "flags", "status"),
    [
        (RequestType.DISCARD, 0, 1, 1, S_UNSUPP),
        (RequestType.WRITE_ZEROES, 0, 1, 2, S_UNSUPP),
        (RequestType.WRITE_ZEROES, 0, 1, 1, S_OK),
        (RequestType.DISCARD, 2047, 2, 0, S_IOERR),
        (RequestType.DISCARD, (1 << 64) - 1, 1, 0, S_IOERR),
        (RequestType.DISCARD, 0, MAX_CLEAR_SECTORS + 1, 0, S_IOERR),
    ],
)
def test_clearing_what_cannot_be_cleared(
    bench: Bench, kind: RequestType, sector: int, sectors: int, flags: int, status: int
) -> None:
    struct.pack_into("<QII", bench.image.ram, HEADER + 0x800, sector, sectors, flags)
    assert bench.do(kind, 0, (HEADER + 0x800, 16, 0)) == status


@pytest.mark.parametrize("size", [15, 17, 17 * 16])
def test_a_list_of_ranges_that_is_none(bench: Bench, size: int) -> None:
    assert bench.do(RequestType.DISCARD, 0, (HEADER + 0x800, size, 0)) == S_IOERR


@pytest.mark.parametrize(
    ("sector", "size", "status"),
    [(2047, 512, S_OK), (2048, 512, S_IOERR), (2047, 1024, S_IOERR), (0, 511, S_IOERR), (1 << 63, 512, S_IOERR)],
)
def test_only_whole_sectors_of_the_disk(bench: Bench, sector: int, size: int, status: int) -> None:
    assert bench.do(RequestType.IN, sector, (DATA, size, WRITE)) == status
    assert bench.do(RequestType.OUT, sector, (DATA, size, 0)) == status


def test_what_the_device_does_not_know_is_unsupported(bench: Bench) -> None:
    assert bench.do(99, 0, (DATA, 512, WRITE)) == S_UNSUPP


def test_a_disk_that_is_read_only_stays_as_it_is(tmp_path: Path) -> None:
    bench = Bench(tmp_path, read_only=True)
    bench.image.ram[DATA] = 1
    struct.pack_into("<QII", bench.image.ram, HEADER + 0x800, 0, 1, 0)
    assert bench.do(RequestType.OUT, 0, (DATA, 512, 0)) == S_IOERR
    assert bench.do(RequestType.DISCARD, 0, (HEADER + 0x800, 16, 0)) == S_UNSUPP
    assert bench.do(RequestType.IN, 0, (DATA, 512, WRITE)) == S_OK
    bench.close()
    assert bench.files[0].read_bytes() == bytes(DISK_BYTES)


@pytest.mark.parametrize("kind", [RequestType.OUT, RequestType.DISCARD, RequestType.WRITE_ZEROES])
@pytest.mark.parametrize("flushes", [True, False])
def test_a_driver_that_cannot_flush_has_what_it_wrote_on_the_medium(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: RequestType, flushes: bool
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(LocalFile, "sync", lambda file: synced.append(file.path))
    bench.features = v.EVENT_INDEX | v.INDIRECT_DESCRIPTORS | (FLUSH if flushes else 0)
    bench.start()
    bench.commit(position=1)
    bench.image.ram[DATA : DATA + 512] = struct.pack("<QII", 0, 8, 0).ljust(512, b"\0")
    assert bench.do(kind, 0, (DATA, 512 if kind is RequestType.OUT else 16, 0)) == S_OK
    assert sorted(path for path in synced if path in bench.files) == ([] if flushes else bench.files)


def test_more_at_once_than_a_driver_may_ask_for(bench: Bench) -> None:
    buffers = [(DATA, 4 * MIB, WRITE)] * (MAX_REQUEST_BYTES // (4 * MIB) + 1)
    assert bench.do(RequestType.IN, 0, *buffers) == S_IOERR


def test_an_error_of_all_legs_is_the_guest_s_error(bench: Bench) -> None:
    for leg in (0, 1):
        bench.half.mirror.inject(leg, Fault(FaultModel.IO_ERROR))
    bench.image.ram[DATA : DATA + 512] = 512 * b"x"
    assert bench.do(RequestType.IN, 0, (DATA, 512, WRITE)) == S_IOERR
    assert bench.image.ram[DATA : DATA + 512] == 512 * b"x"


def test_an_error_of_one_leg_is_an_event(bench: Bench) -> None:
    bench.half.mirror.inject(1, Fault(FaultModel.IO_ERROR))
    assert bench.do(RequestType.OUT, 0, (DATA, 512, 0)) == S_OK
    assert bench.events == [("leg-fault", "disk0.1"), ("leg-failed", "disk0.1")]


@pytest.mark.parametrize("buffers", [[(HEADER, 15, 0), (STATUS, 1, WRITE)], [(HEADER, 16, 0)], [(STATUS, 1, WRITE)]])
def test_a_request_without_header_or_status_breaks_the_device(
    bench: Bench, buffers: list[tuple[int, int, int]]
) -> None:
    bench.rings.offer(bench.rings.chain(*buffers))
    bench.kick()
    assert bench.enter() == [DeviceBroken("disk0")]
    assert bench.events == [("device-broken", "disk0")]
    assert bench.chip.state.status & v.NEEDS_RESET
    assert not bench.half.busy() and not bench.half.pending()


def test_a_broken_device_does_nothing_until_it_is_reset(bench: Bench) -> None:
    bench.rings.offer(0xFFFF)
    bench.kick()
    bench.enter()
    bench.kick()
    assert not bench.half.busy()
    bench.chip.write_bar(0, v.DEVICE_STATUS, 1, 0)
    bench.start()
    bench.commit(position=5)
    assert bench.do(RequestType.FLUSH, 0) == S_OK


def test_a_queue_that_breaks_the_rules_is_not_served_again_before_its_reset(tmp_path: Path) -> None:
    bench = Bench(tmp_path, real_time=True)
    try:
        bench.ask(RequestType.FLUSH, 0)
        bench.rings.offer(0xFFFF)
        bench.kick()
        assert bench.half.take(1 << 20) == [DeviceBroken("disk0")]
        assert [kind for kind, _ in bench.events].count("device-broken") == 1
    finally:
        bench.close()


def test_many_small_pieces_take_up_room_too() -> None:
    """65,536 bytes of data in as many places are half a MiB and more in a command."""
    scattered = DeviceIn("disk0", [(offset, b"x") for offset in range(0, 20_000, 2)])
    assert data_bytes([scattered]) >= len(encode([scattered]))
    in_bulk = DeviceIn("disk0", bulk=[Bulk([(offset, 1) for offset in range(0, 20_000, 2)], bytes(10_000))])
    assert data_bytes([in_bulk]) >= len(encode([in_bulk]))


def test_a_state_that_is_none_breaks_the_device(bench: Bench) -> None:
    bench.image.board = b"\x80"
    bench.kick()
    assert bench.half.take(1) == [DeviceBroken("disk0")]


def enter(bench: Bench, inputs: list[Input]) -> None:
    """As the modules do."""
    bench.board.check(inputs)
    for event in inputs:
        assert isinstance(event, DeviceIn)
        for offset, data in event.pieces():
            bench.image.ram[offset : offset + len(data)] = data
        for queue in event.queues:
            bench.chip.complete(queue.index, queue.next_avail, queue.next_used, queue.interrupt)
    bench.commit(bench.image.position)


@pytest.mark.parametrize("real_time", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_is_on_its_way_can_be_waited_for_and_what_is_left_needs_a_kick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_time: bool, elsewhere: bool
) -> None:
    """``elsewhere``: the machine is saved, and goes on with a half that knows nothing but the chip."""
    monkeypatch.setattr(block, "FLIGHT_BYTES", 1024)
    bench = Bench(tmp_path, real_time=real_time)
    try:
        statuses = [bench.ask(RequestType.OUT, 0, (DATA, 1024, 0)) for _ in range(3)]
        bench.kick()
        bench.half.finish()
        inputs, unserved = bench.half.settle()
        assert unserved and not bench.half.busy()
        enter(bench, inputs)
        assert [bench.image.ram[at] for at in statuses] == [S_OK, UNTOUCHED, UNTOUCHED]
        if elsewhere:
            bench.half.forget()
            bench.kick()
        while bench.half.pending() or bench.half.busy():
            bench.wait()
            bench.enter()
        assert [bench.image.ram[at] for at in statuses] == [S_OK] * 3
        assert bench.rings.used()[0] == 3
    finally:
        bench.close()


def test_a_disk_that_does_not_answer_is_not_waited_for_for_ever(
    bench: Bench, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who saves the machine is told; it goes on, and has lost nothing."""
    monkeypatch.setattr(block, "STALLED_AFTER_S", 0.1)
    for leg in (0, 1):
        bench.half.mirror.inject(leg, Fault(FaultModel.SLOW))
    devices = Devices(EventLog(lambda: 0), [bench.half])
    status = bench.ask(RequestType.OUT, 0, (DATA, 512, 0))
    bench.kick()
    with pytest.raises(HostError, match="disk0 does not answer"):
        devices.settle()
    assert bench.half.busy()
    gate.set()
    bench.wait()
    bench.enter()
    assert bench.image.ram[status] == S_OK


def test_files_are_named_on_the_command_line() -> None:
    assert DiskFiles.parse("a.img") == DiskFiles((Path("a.img"),))
    assert DiskFiles.parse("a.img,b.img,readonly") == DiskFiles((Path("a.img"), Path("b.img")), read_only=True)
    assert DiskFiles.parse("readonly") == DiskFiles((Path("readonly"),))


def test_two_disks_cannot_have_one_file(tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(bytes(DISK_BYTES))
    (tmp_path / "link").symlink_to(image)
    with pytest.raises(UsageError, match="is in disk0 and in disk1"):
        Bays([DiskFiles((image,)), DiskFiles((tmp_path / "link",))], EventLog(lambda: 0))


def test_what_the_guest_sees_of_a_disk(bench: Bench) -> None:
    assert bench.bays.configs == (DiskConfig(DISK_BYTES),)
