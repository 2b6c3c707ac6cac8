"""The I/O half of a NIC: frames from and to queues in verified memory, whatever a driver or the network puts there."""

import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftvm.module.board import BoardConfig, NicConfig, unplugged
from ftvm.module.chips import virtio_pci as v
from ftvm.module.chips.pci import COMMAND, COMMAND_BUS_MASTER
from ftvm.module.chips.virtio_net import (
    CSUM,
    GUEST_CSUM,
    GUEST_TSO4,
    HOST_TSO4,
    MERGEABLE_BUFFERS,
    MTU,
    RECEIVE,
    TRANSMIT,
    VirtioNet,
)
from ftvm.module.events import DeviceBroken, DeviceIn, Input, LinkState
from ftvm.monitor.devices import Devices
from ftvm.monitor.eventlog import EventLog
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.legs import Legs
from ftvm.monitor.net import MAX_BACKLOG, NET_HEADER_BYTES, QUIET_SYNC_POINTS, Net
from ftvm.monitor.poller import Poller
from ftvm.network.frame import Frame, Offload
from ftvm.network.loopback import Loopback
from ftvm.network.team import Team, TeamMode
from ftvm.units import MIB
from tests.network.legs import HOST, NIC, TestLeg, frame
from tests.unit.queues import DEVICE, DRIVER, WRITE, Rings

RAM_BYTES = 4 * MIB
SIZE = 16
OTHER = 0x10000
"""Where the rings of the transmit queue are, behind those of the receive queue."""
BUFFERS, BUFFER_BYTES = 0x100000, 2048


class Bench:
    """A NIC with one leg, and a driver that has negotiated ``features``; its rings and buffers are in the image."""

    def __init__(self, features: int = 0, *, repeatable: bool = False) -> None:
        self.events: list[tuple[str, str]] = []
        log = EventLog(lambda: 0)
        log.follow(lambda event: self.events.append((event.kind, event.subject)))
        self.leg = TestLeg()
        self.plug = Loopback()
        legs = Legs("nic0", log)
        self.team = Team(
            NIC, [("leg", lambda: self.plug if repeatable else self.leg)], TeamMode.ACTIVE_BACKUP, legs.on_event
        )
        self.image = VerifiedImage(RAM_BYTES, threads=1)
        self.poller = Poller()
        config = NicConfig(NIC)
        self.board = unplugged(BoardConfig(ram_bytes=RAM_BYTES, nics=(config,)))
        chip = self.board.devices["nic0"]
        assert isinstance(chip, VirtioNet)
        self.chip = chip
        self.half = Net(
            "nic0", config, self.team, legs, self.image, self.poller, log, repeatable=repeatable, capture=None
        )
        chip.write(COMMAND, 2, COMMAND_BUS_MASTER)
        self.features = features | v.INDIRECT_DESCRIPTORS
        self.start()

    def start(self) -> None:
        """All rings empty, and the device at work."""
        self.receive = Rings(self.image.ram, SIZE, self.features)
        self.transmit = Rings(memoryview(self.image.ram)[OTHER:], SIZE, self.features)
        for rings in (self.receive, self.transmit):
            rings.ram[DRIVER : DRIVER + 4] = bytes(4)
            rings.ram[DEVICE : DEVICE + 4] = bytes(4)
        state = self.chip.state
        state.driver_features = self.features | v.VERSION_1
        state.status = v.ACKNOWLEDGE | v.DRIVER | v.FEATURES_OK | v.DRIVER_OK
        transmit = self.transmit.state
        for area in ("descriptors", "driver_area", "device_area"):
            setattr(transmit, area, getattr(transmit, area) + OTHER)
        state.queues = [self.receive.state, transmit]

    def commit(self) -> None:
        """What the chip is now, is verified."""
        self.board.state_changed()  # not by the guest
        self.image.board = self.board.save()

    def close(self) -> None:
        self.transmit.ram = None
        self.team.close()
        self.poller.close()
        self.image.close()
        for rings in (self.leg,):
            if not rings.closed:
                rings.close()

    # ---- the driver ----

    def send(self, data: bytes, offload: Offload | None = None, at: int = 0x200000) -> None:
        header = bytes(10) if offload is None else offload.to_bytes()
        raw = header + b"\0\0" + data
        self.image.ram[at : at + len(raw)] = raw
        self.transmit.offer(self.transmit.chain((at, len(raw), 0)))

    def offer(self, count: int, size: int = BUFFER_BYTES) -> None:
        for _ in range(count):
            at = BUFFERS + BUFFER_BYTES * (self.receive.avail_index % SIZE)
            self.receive.offer(self.receive.chain((at, size, WRITE)))

    def got(self) -> list[bytes]:
        """The buffers that came back, in order, as far as they were written."""
        index, ring = self.receive.used()
        used = [ring[at % SIZE] for at in range(max(0, index - SIZE), index)]
        return [bytes(self.image.ram[BUFFERS + BUFFER_BYTES * head :][:length]) for head, length in used]

    # ---- the machine ----

    def sync(self, *kicked: int) -> list[Input]:
        """One sync point: what enters, and has entered."""
        self.commit()
        for queue in kicked:
            self.half.kick(queue)
        self.half.committed()
        self.poller.wait(0)
        entered: list[Input] = []
        while self.half.pending():
            inputs = self.half.take(700_000)
            self.board.check(inputs)
            for event in inputs:
                if isinstance(event, DeviceIn):
                    for offset, data in event.pieces():
                        self.image.ram[offset : offset + len(data)] = data
                    for queue in event.queues:
                        self.chip.complete(queue.index, queue.next_avail, queue.next_used, queue.interrupt)
            self.board.put([event for event in inputs if not isinstance(event, DeviceIn)])
            entered += inputs
            self.commit()
            self.half.committed()
        return entered


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


@pytest.fixture
def looped() -> Iterator[Bench]:
    made = Bench(repeatable=True)
    yield made
    made.close()


def test_frames_leave_in_order_and_their_buffers_come_back(bench: Bench) -> None:
    for number in range(3):
        bench.send(frame(bytes([number]), NIC).data, at=0x200000 + 0x1000 * number)
    (entered,) = bench.sync(TRANSMIT)
    assert bench.leg.sent == [frame(bytes([number]), NIC) for number in range(3)]
    assert isinstance(entered, DeviceIn)
    assert [(queue.index, queue.next_avail, queue.next_used, queue.interrupt) for queue in entered.queues] == [
        (TRANSMIT, 3, 3, True)
    ]
    assert bench.transmit.used()[0] == 3


def test_frames_enter_with_a_header_before_them(bench: Bench) -> None:
    bench.offer(4)
    bench.leg.arrive(frame(b"one"), frame(b"two"))
    bench.sync()
    assert bench.got() == [bytes(10) + b"\1\0" + frame(body).data for body in (b"one", b"two")]
    assert bench.team.received == 2


def test_while_frames_flow_the_driver_need_not_notify_and_later_it_must(bench: Bench) -> None:
    assert not bench.half.hurry()
    bench.send(frame(b"1", NIC).data)
    bench.sync(TRANSMIT)
    flags = struct.Struct("<H")
    assert flags.unpack_from(bench.transmit.ram, DEVICE)[0] == 1 and bench.half.hurry()
    bench.send(frame(b"2", NIC).data)
    bench.sync()  # nobody kicked
    assert len(bench.leg.sent) == 2
    for _ in range(QUIET_SYNC_POINTS):
        bench.sync()
    assert flags.unpack_from(bench.transmit.ram, DEVICE)[0] == 0 and not bench.half.hurry()
    assert bench.sync() == []


def test_what_is_answered_at_once_enters_at_the_same_sync_point(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = frame(b"answer", NIC)
    monkeypatch.setattr(bench.leg, "send", lambda frames: bench.leg.arrive(answer))
    bench.offer(1)
    bench.send(frame(b"question", NIC).data)
    bench.commit()
    bench.half.kick(TRANSMIT)
    bench.half.committed()
    (entering,) = bench.half.take(700_000)
    assert isinstance(entering, DeviceIn)
    assert {queue.index for queue in entering.queues} == {RECEIVE, TRANSMIT}
    assert any(answer.data in bulk.data for bulk in entering.bulk)


def test_frames_that_find_no_buffers_wait_inside_and_then_outside(bench: Bench) -> None:
    bench.leg.arrive(*(frame(number.to_bytes(4, "big")) for number in range(2 * MAX_BACKLOG)))
    for _ in range(4):
        assert bench.sync() == []
    assert len(bench.leg.incoming) == MAX_BACKLOG
    assert not bench.half.pending()
    received = []
    for _ in range(2 * MAX_BACKLOG // SIZE):
        bench.offer(SIZE)
        bench.sync()
        received += [int.from_bytes(each[-4:], "big") for each in bench.got()]
    assert received == list(range(2 * MAX_BACKLOG)) and bench.half.dropped == 0


def test_what_is_no_frame_for_the_guest_does_not_make_it_deaf(bench: Bench) -> None:
    bench.offer(2)
    bench.sync()
    bench.leg.arrive()
    bench.poller.wait(0)
    assert not bench.half.pending()
    bench.leg.arrive(frame(b"x"))
    bench.poller.wait(0)
    assert bench.half.pending()


def test_a_nic_without_a_driver_drops_what_comes(bench: Bench) -> None:
    bench.chip.state.status = v.ACKNOWLEDGE
    bench.leg.arrive(frame(b"early"))
    bench.poller.wait(0)
    assert bench.sync() == [] and bench.half.dropped == 1
    bench.start()
    bench.offer(1)
    bench.sync()
    assert bench.got() == []


def test_a_link_that_goes_down_is_seen_by_the_guest(bench: Bench) -> None:
    bench.sync()
    bench.leg.link(False)
    assert bench.sync() == [LinkState("nic0", False)]
    assert not bench.chip.state.link_up and bench.chip.read_config(6, 2) == 0
    bench.leg.link(True)
    assert bench.sync() == [LinkState("nic0", True)]
    assert ("leg-failed", "nic0.0") in bench.events and ("leg-joined", "nic0.0") in bench.events


def test_a_frame_is_spread_over_merged_buffers() -> None:
    bench = Bench(MERGEABLE_BUFFERS)
    bench.offer(4, 100)
    body = bytes(range(200))
    bench.leg.arrive(frame(body))
    bench.sync()
    first, *others = bench.got()
    assert first[:12] == bytes(10) + b"\3\0"
    assert first[12:] + b"".join(others) == frame(body).data
    bench.close()


def test_a_frame_that_needs_more_buffers_than_there_are_waits_for_them() -> None:
    bench = Bench(MERGEABLE_BUFFERS)
    bench.offer(2, 100)
    bench.leg.arrive(frame(bytes(300)), frame(b"next"))
    bench.sync()
    assert bench.got() == []
    bench.offer(2, 100)
    bench.sync()
    assert len(bench.got()) == 4
    bench.offer(1, 100)
    bench.sync()
    assert bench.got()[-1].endswith(b"next")
    bench.close()


def test_a_frame_that_no_buffers_of_the_driver_can_hold_is_lost(bench: Bench) -> None:
    bench.offer(2, 100)
    bench.leg.arrive(frame(bytes(200)), frame(b"short"))
    bench.sync()
    assert bench.half.dropped == 1
    assert [each[-5:] for each in bench.got()] == [b"short"]


@pytest.mark.parametrize(
    ("ethertype", "extra", "arrives"),
    [(b"\x08\x00", 0, True), (b"\x08\x00", 1, False), (b"\x81\x00", 4, True), (b"\x81\x00", 5, False)],
)
def test_a_driver_that_knows_the_mtu_gets_no_longer_packets(ethertype: bytes, extra: int, arrives: bool) -> None:
    bench = Bench(MTU)
    bench.offer(2)
    addresses = NIC + HOST
    bench.leg.arrive(Frame(addresses + ethertype + bytes(1500 + extra)), frame(b"next"))
    bench.sync()
    assert [len(each) - NET_HEADER_BYTES for each in bench.got()] == [1514 + extra, 18][not arrives :]
    assert bench.half.dropped == (not arrives)
    bench.close()


def test_segments_still_to_be_cut_may_be_longer_than_the_mtu() -> None:
    bench = Bench(MTU | MERGEABLE_BUFFERS | GUEST_CSUM | GUEST_TSO4)
    bench.offer(4)
    bench.leg.arrive(Frame(frame(bytes(5000)).data, Offload(1, 1, 54, 1448, 34, 16)))
    bench.sync()
    assert sum(map(len, bench.got())) == NET_HEADER_BYTES + 14 + 5000
    bench.close()


def test_work_that_the_driver_did_not_take_over_is_done_here(bench: Bench) -> None:
    bench.offer(4)
    whole = frame(bytes(40))
    bench.leg.arrive(Frame(whole.data, Offload(1, 0, 0, 0, 14, 6)))
    bench.sync()
    (got,) = bench.got()
    assert got[:10] == bytes(10) and got[NET_HEADER_BYTES + 20 : NET_HEADER_BYTES + 22] == b"\xff\xff"


def test_work_that_the_driver_took_over_is_left_to_it() -> None:
    bench = Bench(CSUM | GUEST_CSUM | HOST_TSO4 | GUEST_TSO4)
    bench.offer(2)
    offload = Offload(1, 1, 54, 1000, 34, 16)
    bench.leg.arrive(Frame(bytes(1500), offload))
    bench.send(bytes(1500), offload)
    bench.sync(TRANSMIT)
    assert bench.leg.sent == [Frame(bytes(1500), offload)]
    (got,) = bench.got()
    assert got[:10] == offload.to_bytes()
    bench.close()


def test_a_repeatable_nic_is_served_at_kicks_only(looped: Bench) -> None:
    looped.offer(4)
    looped.send(frame(b"a", NIC).data)
    assert looped.sync() == []
    (entered,) = looped.sync(TRANSMIT)
    assert isinstance(entered, DeviceIn) and [queue.index for queue in entered.queues] == [TRANSMIT, RECEIVE]
    assert [each[-1:] for each in looped.got()] == [b"a"]


def test_what_a_repeatable_nic_finds_no_buffer_for_is_lost_at_once(looped: Bench) -> None:
    looped.offer(1)
    for number in range(3):
        looped.send(frame(bytes([number]), NIC).data, at=0x200000 + 0x1000 * number)
    looped.sync(TRANSMIT)
    assert looped.half.dropped == 2
    looped.offer(4)
    assert looped.sync(RECEIVE) != []  # the driver is told not to notify
    assert [each[-1:] for each in looped.got()] == [b"\0"]


@pytest.mark.parametrize("size", [0, 11, NET_HEADER_BYTES + 13])
def test_what_is_too_short_to_be_a_frame_goes_nowhere(bench: Bench, size: int) -> None:
    bench.transmit.offer(bench.transmit.chain((0x200000, max(size, 1), 0)))
    bench.sync(TRANSMIT)
    assert bench.leg.sent == [] and bench.transmit.used()[0] == 1


def test_a_driver_that_breaks_the_rules_has_to_reset_the_device(bench: Bench) -> None:
    bench.transmit.offer(bench.transmit.chain((RAM_BYTES, 100, 0)))
    assert bench.sync(TRANSMIT) == [DeviceBroken("nic0")]
    assert bench.chip.state.status & v.NEEDS_RESET
    assert bench.events == [("device-broken", "nic0")]
    assert bench.sync() == []
    bench.start()
    bench.send(frame(b"again", NIC).data)
    bench.sync(TRANSMIT)
    assert bench.leg.sent == [frame(b"again", NIC)]


def test_a_queue_that_is_broken_is_said_once_however_often_it_is_asked(bench: Bench) -> None:
    bench.leg.arrive(frame(b"x"))
    struct.pack_into("<H", bench.receive.ram, DRIVER + 2, SIZE + 1)  # more available than there are
    bench.commit()
    bench.half.committed()
    bench.poller.wait(0)
    assert bench.half.settle() == ([DeviceBroken("nic0")], False)
    assert bench.events == [("device-broken", "nic0")]


def test_what_was_sent_before_a_driver_broke_the_rules_does_not_come_back_after_its_reset(bench: Bench) -> None:
    bench.send(frame(b"before", NIC).data)
    bench.transmit.offer(bench.transmit.chain((RAM_BYTES, 100, 0)))
    assert bench.sync(TRANSMIT) == [DeviceBroken("nic0")]
    bench.start()
    bench.send(frame(b"after", NIC).data)
    bench.sync(TRANSMIT)
    assert bench.transmit.used()[0] == 1


def test_frames_leave_once_although_another_device_takes_all_the_room_of_a_sync_point(bench: Bench) -> None:
    bench.send(frame(b"once", NIC).data)
    bench.commit()
    bench.half.committed()  # and what came of it could not enter yet
    bench.sync()
    assert bench.leg.sent == [frame(b"once", NIC)]
    assert bench.transmit.used()[0] == 1


def test_a_machine_that_leaves_its_past_serves_what_a_repeatable_nic_has_in_its_queue(looped: Bench) -> None:
    looped.offer(1)
    looped.send(frame(b"left", NIC).data)
    looped.commit()
    devices = Devices(EventLog(lambda: 0), [looped.half])
    devices.forget()
    devices.kick_all()
    (entering,) = looped.half.take(700_000)
    assert isinstance(entering, DeviceIn)
    assert [(queue.index, queue.next_used) for queue in entering.queues] == [(TRANSMIT, 1), (RECEIVE, 1)]


def test_a_buffer_that_cannot_take_even_a_header_breaks_the_device(bench: Bench) -> None:
    bench.offer(1, NET_HEADER_BYTES - 1)
    bench.leg.arrive(frame(b"x"))
    assert bench.sync() == [DeviceBroken("nic0")]


def test_a_capture_that_cannot_be_written_is_told_once_and_the_nic_goes_on(bench: Bench) -> None:
    class Full:
        trouble: str | None = None

        def write(self, virtual_ns: int, data: bytes) -> None:
            self.trouble = "No space left on device"

        def flush(self) -> None:
            pass

    bench.half._capture = Full()  # type: ignore[assignment]
    for _ in range(2):
        bench.send(frame(b"1", NIC).data)
        bench.sync(TRANSMIT)
    assert bench.events == [("capture-failed", "nic0")] and len(bench.leg.sent) == 2


def test_going_back_forgets_what_was_under_way(bench: Bench) -> None:
    bench.leg.arrive(frame(b"x"))
    bench.sync()
    bench.half.forget()
    bench.offer(1)
    assert bench.sync() == [] and bench.half.dropped == 1


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(
    features=st.sampled_from([0, MERGEABLE_BUFFERS, MERGEABLE_BUFFERS | CSUM | GUEST_CSUM | HOST_TSO4, v.EVENT_INDEX]),
    garbage=st.lists(
        st.tuples(
            st.sampled_from(["receive", "transmit"]),
            st.sampled_from([0x1000, DRIVER, DEVICE, 0x200000]),
            st.integers(0, 250),
            st.binary(min_size=1, max_size=40),
        ),
        max_size=12,
    ),
    moves=st.lists(st.sampled_from(["arrive", "send", "offer", "sync", "kick"]), max_size=30),
    repeatable=st.booleans(),
)
def test_no_driver_makes_the_host_fail_or_write_outside_ram(
    features: int, garbage: list[tuple[str, int, int, bytes]], moves: list[str], repeatable: bool
) -> None:
    bench = Bench(features, repeatable=repeatable)
    for index, move in enumerate(moves):
        match move:
            case "arrive" if not repeatable:
                bench.leg.arrive(frame(bytes(50 * index)))
            case "send":
                bench.send(frame(bytes(index), NIC).data, Offload(1, index % 3, 54, 7 * index, 34, 16))
            case "offer":
                bench.offer(1, 60 + 40 * (index % 8))
            case _:
                if garbage:
                    queue, area, offset, data = garbage.pop()
                    ram = getattr(bench, queue).ram
                    ram[area + offset : area + offset + len(data)] = data
                bench.sync(*((TRANSMIT, RECEIVE) if move == "kick" else ()))
    bench.close()
