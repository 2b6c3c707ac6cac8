"""The disk bays of a machine: from files to open disks, and to what the guest sees of them."""

import contextlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ftvm.errors import UnusableFile, UsageError
from ftvm.module.board import DISK_BAYS, DiskConfig
from ftvm.monitor.block import Block
from ftvm.monitor.eventlog import EventLog
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.legs import Legs
from ftvm.monitor.poller import Poller
from ftvm.storage.mirror import Mirror
from ftvm.storage.opening import open_disk
from ftvm.storage.stamp import LegStamp, unchanged


class DiskFiles(msgspec.Struct, frozen=True):
    """The legs of one disk; a single one is a disk without a mirror. ``read_only``: for the guest."""

    paths: tuple[Path, ...]
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> "DiskFiles":
        """``a.img,b.img`` or ``a.img,b.img,readonly``. Raises UsageError."""
        names = text.split(",")
        read_only = len(names) > 1 and names[-1] == "readonly"
        if read_only:
            names.pop()
        if not all(names):
            raise UsageError(f"the disk {text!r} has a file without a name", "as in: --disk a.img,b.img")
        return cls(tuple(Path(name) for name in names), read_only)


class Bays:
    """The disks in the bays, open. Closing takes time: all that was acknowledged goes to the media."""

    def __init__(self, files: Sequence[DiskFiles], log: EventLog) -> None:
        """Opens them; while that is done, they are checked, and may be compared. Raises UnusableFile, HostError."""
        if len(files) > DISK_BAYS:
            raise UsageError(f"{len(files)} disks", f"there are {DISK_BAYS} bays")
        _refuse_shared(files)
        self._log = log
        self._open: list[tuple[str, DiskConfig, Mirror, Legs]] = []
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for bay, disk in enumerate(files):
                name = f"disk{bay}"
                legs = Legs(name, log)
                mirror = open_disk(disk.paths, legs.on_event, read_only=disk.read_only)
                self._open.append((name, DiskConfig(mirror.size_bytes, disk.read_only), mirror, legs))
                legs.begin(mirror)
            undo.pop_all()

    @property
    def configs(self) -> tuple[DiskConfig, ...]:
        """What the guest sees."""
        return tuple(config for _, config, _, _ in self._open)

    def refuse_changed(self, saved: Sequence[Sequence[LegStamp]]) -> None:
        """``saved``, by bay: the disks as a machine left them. Raises UnusableFile for one that was changed since."""
        for (name, _, mirror, _), before in zip(self._open, saved, strict=False):
            now = mirror.stamps()
            if unchanged(before, now.values()):
                continue
            file, then = next(
                ((file, old) for file, new in now.items() for old in before if old.may_be(new)),
                (mirror.status().legs[0].where, before[0]),
            )
            seconds, ns = divmod(then.changed_ns, 10**9)
            raise UnusableFile(
                f"{name} ({file}) was changed since the machine was saved: its guest knows another disk",
                "put back what was there then; if it is a copy of that, give it its time:"
                f" touch --date=@{seconds}.{ns:09} {shlex.quote(file)}",
            )

    def plug_in(self, image: VerifiedImage, poller: Poller, *, real_time: bool) -> list[Block]:
        """The I/O halves, one for each disk."""
        return [
            Block(name, config, mirror, legs, image, poller, self._log, real_time=real_time)
            for name, config, mirror, legs in self._open
        ]

    def close(self) -> None:
        """Raises HostError when a disk could not be left in good order; all are closed all the same."""
        with contextlib.ExitStack() as closing:
            for _, _, mirror, _ in self._open:
                closing.callback(mirror.close)
            self._open = []


def _refuse_shared(disks: Sequence[DiskFiles]) -> None:
    """Two disks with one file: no lock tells them apart from two programs."""
    seen: dict[str, int] = {}
    for bay, disk in enumerate(disks):
        for path in disk.paths:
            other = seen.setdefault(os.path.realpath(path), bay)
            if other != bay:
                raise UsageError(f"{path} is in disk{other} and in disk{bay}", "give each disk files of its own")
