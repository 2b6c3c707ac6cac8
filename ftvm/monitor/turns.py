"""Sync points in native code (native/turns.c): it judges whether modules agree, and passes by itself those at which the
guest wants nothing but blocks of a disk that the host has in memory."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ftvm._native import ffi, lib
from ftvm.errors import HostError
from ftvm.module import events
from ftvm.module.board import StopKind
from ftvm.module.chips.virtio_pci import QueueState
from ftvm.module.events import Input, QueueKick
from ftvm.module.link import CommandKind, Report
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.module_handle import ModuleHandle
from ftvm.monitor.virtqueue import Virtqueue
from ftvm.storage.direct import Shortcut

SILENT: int = lib.FT_TURN_SILENT
APART: int = lib.FT_TURN_APART
AGREED: int = lib.FT_TURN_AGREED

_encode = msgspec.msgpack.Encoder().encode
_NEXT_AVAIL, _NEXT_USED = _encode("next_avail"), _encode("next_used")


class TurnDisk:
    """A disk whose driver native code may serve, in its one ``queue``. ``chip`` is the packed state of its chip, and
    ``seen`` the queue in it. At one sync point, at most ``room_bytes`` of data come and go. ``on_written`` is told
    where on the disk something was written, (offset, bytes). Raises ValueError for a state that it does not know."""

    def __init__(
        self,
        name: str,
        queue: Virtqueue,
        chip: bytes,
        seen: QueueState,
        size_bytes: int,
        room_bytes: int,
        shortcut: Shortcut,
        on_written: Callable[[list[tuple[int, int]]], None],
    ) -> None:
        avail, used = _NEXT_AVAIL + _encode(seen.next_avail), _NEXT_USED + _encode(seen.next_used)
        at = chip.index(avail + used) + len(_NEXT_AVAIL)
        self._held = [  # by the pointers that go into C
            ffi.from_buffer(part)
            for part in (
                _encode(name),
                _encode([QueueKick(name, 0)]),
                chip[:at],
                _NEXT_USED,
                chip[at + len(avail) - len(_NEXT_AVAIL) + len(used) :],
            )
        ]
        self._queue, self._shortcut = queue, shortcut  # and what they point to
        self.on_written = on_written
        self.native: Any = ffi.new("ft_turn_disk *")
        disk, (own_name, kick, *state) = self.native, self._held
        disk.name, disk.name_bytes = own_name, len(own_name)
        disk.kick, disk.kick_bytes = kick, len(kick)
        for index, part in enumerate(state):
            disk.state[index], disk.state_bytes[index] = part, len(part)
        disk.queue = queue.native[0]
        disk.size_bytes, disk.room_bytes, disk.fd = size_bytes, room_bytes, shortcut.fd
        if shortcut.direct is not None:
            disk.legs = shortcut.direct.native
            disk.marked, disk.marked_count = shortcut.marked, len(shortcut.marked)


class Course(msgspec.Struct, frozen=True):
    """How sync points may be passed: those at which ``disk`` is wanted, until the monotonic time ``until_s``, while
    none of ``watched`` (file descriptors) can be read. Other epochs have so many ``blocks``. ``sync_points`` there were
    before; at one of ``scrub_every``, so many pages behind ``scrub_first`` are compared with the image."""

    disk: TurnDisk
    until_s: float
    watched: Sequence[int]
    blocks: int
    sync_points: int
    scrub_every: int
    scrub_first: int
    scrub_pages: int


class Passed(msgspec.Struct, frozen=True):
    """Sync points that were passed: ``report`` is what all agreed on at the last of them. At each an input entered;
    ``inputs`` did at the last, unless what came of it is in the image already. ``first_s`` is when the modules began to
    run to the first, ``longest_pause_s`` how long they stood still at one of them."""

    count: int
    report: Report
    inputs: Sequence[Input]
    target: int
    first_s: float
    longest_pause_s: float
    scrub_first: int


class Turns:
    """For commands to all modules in service. Raises HostError without memory."""

    def __init__(self, image: VerifiedImage) -> None:
        native = lib.ft_turns_open()
        if native == ffi.NULL:
            raise HostError("no memory to judge modules")
        self._native = native
        self._image = image
        self._plan = plan = ffi.new("ft_turn_plan *")
        plan.voter = image.voter
        plan.stop = StopKind.OUTPUT
        plan.ram_pages = image.ram_pages
        self._modules: list[ModuleHandle] = []
        self._payload = ffi.new("void const **")
        self._size = ffi.new("uint32_t *")
        weakref.finalize(self, lib.ft_turns_close, native)

    def run(
        self,
        modules: list[ModuleHandle],
        kind: CommandKind,
        target: int,
        payload: bytes,
        wait_us: tuple[int, int],
        course: Course | None,
    ) -> int:
        """Tell them, look for reports and then sleep until the times ``wait_us``, and judge: SILENT, APART or AGREED,
        of the newest sync point; ``passed`` says of others."""
        plan = self._plan
        if modules != self._modules:
            self._modules = [*modules]
            self._links = plan.links = ffi.new("ft_link *[]", [module.link for module in modules])
            self._memories = plan.memories = ffi.new("ft_memory[]", len(modules))
            for module, memory in zip(modules, self._memories, strict=True):
                standing = module.standing_memory()
                memory.ram, memory.written = standing.ram, standing.pages
            plan.count = len(modules)
        plan.kind, plan.target = kind, target
        plan.spin_us, plan.sleep_us = wait_us
        plan.disk = ffi.NULL
        if course is not None and lib.ft_turns_watch(self._native, course.watched, len(course.watched)) == 0:
            plan.disk, plan.position, plan.blocks = course.disk.native, self._image.position, course.blocks
            plan.until_ns = max(0, int(course.until_s * 1e9))
            plan.scrub_every = course.scrub_every
            plan.scrub_in = course.scrub_every - course.sync_points % course.scrub_every
            plan.scrub_first, plan.scrub_pages = course.scrub_first, course.scrub_pages
        verdict = int(lib.ft_turns_run(self._native, plan, payload, len(payload)))
        if course is not None:
            written = lib.ft_turns_written(self._native, self._size)
            if self._size[0]:
                course.disk.on_written([(place.offset, place.bytes) for place in written[0 : self._size[0]]])
        return verdict

    def judge(self) -> int:
        """The same, now that all have reported: APART or AGREED."""
        return int(lib.ft_turns_judge(self._native, self._plan))

    @property
    def began_s(self) -> float:
        """When the modules began to run, last."""
        return float(self._plan.began_ns) / 1e9

    @property
    def ended_s(self) -> float:
        """When the last of them had reported, if they did in time."""
        return float(self._plan.ended_ns) / 1e9

    @property
    def longest_epoch_s(self) -> float:
        return float(self._plan.longest_epoch_ns) / 1e9

    @property
    def in_image(self) -> bool:
        """What was written in the newest epoch is verified already, and must be committed."""
        return bool(self._plan.in_image)

    def refused(self, index: int) -> bool:
        """The module with this index could not be told."""
        return bool(self._plan.refused >> index & 1)

    def passed(self) -> Passed | None:
        """By the last ``run``."""
        plan = self._plan
        if not plan.passed:
            return None
        inputs: Sequence[Input] = ()
        if not plan.in_image:  # else the epoch that it entered in is
            data = lib.ft_turns_inputs(self._native, plan.disk, self._size)
            inputs = events.decode_inputs(ffi.buffer(data, self._size[0]))
        return Passed(
            plan.passed,
            self._report(verified=True),
            inputs,
            plan.target,
            float(plan.first_ns) / 1e9,
            float(plan.longest_pause_ns) / 1e9,
            plan.scrub_first,
        )

    def report(self) -> Report:
        """What all agreed on."""
        return self._report(verified=False)

    def written_pages(self, index: int) -> int:
        """By the module with this index, in the epoch that was judged."""
        return int(self._memories[index].count)

    def _report(self, *, verified: bool) -> Report:
        head = lib.ft_turns_report(self._native, verified, self._payload)
        outputs_at = head.board_bytes
        detail_at = outputs_at + head.output_bytes
        payload = ffi.buffer(self._payload[0], detail_at + head.detail_bytes)
        return Report(
            head.stop,
            head.position,
            head.wake_ns,
            ffi.buffer(ffi.addressof(head, "arch"))[:],
            payload[:outputs_at],
            payload[outputs_at:detail_at],
            payload[detail_at:],
            head.instruction,
        )
