"""The metadata file beside a leg (``a.img.ftvm``): what the leg belongs to, and where it may differ from its peers.

Layout, version 1 (little endian; docs/mirror.md has the field list):

    0       slot 0    8 KiB: magic, version, length, xxh3-64 of the payload; payload: a Slot in msgpack
    8192    slot 1    the same
    16384   bitmap    sectors of 512 bytes: bits of 4032 regions, then their xxh3-64 seeded with the sector number

Torn updates: slots are written alternately, each synced before the next is touched, so one valid slot is always
there, and the higher sequence number wins. A sector of the bitmap is written as a whole; where its checksum
does not hold all its regions count as dirty, which is always safe.
"""

import errno
import struct
from collections.abc import Iterable
from pathlib import Path

import msgspec
import xxhash

from ftvm.errors import UnusableFile
from ftvm.storage.host import File, Host, beside, create_file
from ftvm.storage.regions import SECTOR_REGIONS, RegionSet, region_count, sector_count
from ftvm.units import KIB

VERSION = 1
SUFFIX = ".ftvm"
MAX_LEGS = 8

MAX_HISTORY = 256
"""Eras that a leg remembers. One that was away for longer cannot be told from a stranger."""

_MAGIC = b"FTVMDISK"
_HEADER = struct.Struct("<8sIIQ")
_SLOT_BYTES = 8 * KIB
_BITMAP_AT = 2 * _SLOT_BYTES
_SECTOR_BYTES = 512
_BITS_BYTES = SECTOR_REGIONS // 8
_CHECKSUM = struct.Struct("<Q")

Era = bytes
"""8 random bytes: a stretch in which the same legs were in service, in one run of ftvm."""


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One leg as the disk knows it. ``since``, for one that is not in sync: the last era that is known to be
    in its metadata; with an older one it is an old copy, and the bitmap does not say what it lacks."""

    leg: bytes
    name: str
    in_sync: bool
    since: Era


class Superblock(msgspec.Struct, frozen=True, array_like=True):
    """What all legs of a disk agree on.

    ``history`` has the eras before this one, oldest first; ``confirmed`` is the newest one that all legs in sync
    are known to have on their medium. ``generation`` counts eras, for people. ``integrity``: checksums per block.
    """

    array: bytes
    era: Era
    history: tuple[Era, ...]
    confirmed: Era
    generation: int
    size_bytes: int
    integrity: bool
    members: tuple[Member, ...]

    def age(self, era: Era) -> int | None:
        """How many eras ago ``era`` was, 0 for the present one; None when it is not of this past."""
        if era == self.era:
            return 0
        return len(self.history) - self.history.index(era) if era in self.history else None

    def member(self, leg: bytes) -> Member | None:
        return next((member for member in self.members if member.leg == leg), None)

    def next_era(self, era: Era, members: Iterable[Member]) -> "Superblock":
        history = (*self.history, self.era)[-MAX_HISTORY:]
        return msgspec.structs.replace(
            self, era=era, history=history, generation=self.generation + 1, members=tuple(members)
        )


class Slot(msgspec.Struct, frozen=True, array_like=True):
    """One leg's copy. ``stamp`` is the image's time of last change when it was closed in good order; None while it
    is in service, and after a crash."""

    sequence: int
    leg: bytes
    stamp: int | None
    superblock: Superblock


_decode = msgspec.msgpack.Decoder(Slot).decode
_encode = msgspec.msgpack.Encoder().encode


def path_of(image: Path) -> Path:
    return beside(image, SUFFIX)


def _encode_slot(slot: Slot) -> bytes:
    payload = _encode(slot)
    header = _HEADER.pack(_MAGIC, VERSION, len(payload), xxhash.xxh3_64_intdigest(payload))
    data = (header + payload).ljust(_SLOT_BYTES, b"\0")
    if len(data) > _SLOT_BYTES:
        raise UnusableFile("the metadata of this disk does not fit", "give the images shorter names")
    return data


def _decode_slot(data: bytes, path: Path) -> Slot | None:
    """None when this is not a whole slot. Raises UnusableFile for one of another version."""
    if len(data) < _HEADER.size:
        return None
    magic, version, length, checksum = _HEADER.unpack_from(data)
    payload = data[_HEADER.size : _HEADER.size + length]
    if magic != _MAGIC or xxhash.xxh3_64_intdigest(payload) != checksum:
        return None
    if version != VERSION:
        raise UnusableFile(f"{path} has version {version} of the disk metadata", f"this ftvm knows version {VERSION}")
    try:
        return _decode(payload)
    except msgspec.DecodeError:
        return None


def _encode_sector(number: int, mask: int) -> bytes:
    bits = mask.to_bytes(_BITS_BYTES, "little")
    return bits + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(bits, seed=number))


def _decode_sector(number: int, data: bytes) -> int:
    bits = data[:_BITS_BYTES]
    if data == bits + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(bits, seed=number)):
        return int.from_bytes(bits, "little")
    return (1 << SECTOR_REGIONS) - 1


class Sidecar:
    """An open metadata file. Raises OSError where the host does."""

    def __init__(self, file: File) -> None:
        """Raises UnusableFile when neither slot can be used."""
        self._file = file
        found = [_decode_slot(bytes(file.read(number * _SLOT_BYTES, _SLOT_BYTES)), file.path) for number in range(2)]
        slots = [slot for slot in found if slot is not None]
        if not slots:
            image = file.path.name.removesuffix(SUFFIX)
            raise UnusableFile(
                f"the metadata {file.path} is damaged",
                f"copy the disk from a leg that is right: ftvm disk resync --from RIGHT.img RIGHT.img {image}",
            )
        self.slot = max(slots, key=lambda slot: slot.sequence)

    def bitmap(self) -> RegionSet:
        """The regions in which this leg may differ from others."""
        regions = region_count(self.slot.superblock.size_bytes)
        sectors = sector_count(regions)
        data = bytes(self._file.read(_BITMAP_AT, sectors * _SECTOR_BYTES))
        at = range(0, sectors * _SECTOR_BYTES, _SECTOR_BYTES)
        masks = {number: _decode_sector(number, data[start : start + _SECTOR_BYTES]) for number, start in enumerate(at)}
        return RegionSet(masks) & RegionSet.of((0, regions))

    def record(self, superblock: Superblock, stamp: int | None) -> None:
        """Durable on return; before it, the slot that was valid stays valid."""
        slot = Slot(self.slot.sequence + 1, self.slot.leg, stamp, superblock)
        _write_all(self._file, slot.sequence % 2 * _SLOT_BYTES, _encode_slot(slot))
        self._file.sync()
        self.slot = slot

    def mark(self, masks: dict[int, int]) -> None:
        """Write sectors of the bitmap. Durable on return; before it, each sector is the old or the new one."""
        for number, mask in masks.items():
            _write_all(self._file, _BITMAP_AT + number * _SECTOR_BYTES, _encode_sector(number, mask))
        self._file.sync()

    def close(self) -> None:
        self._file.close()


def create(
    host: Host, image: Path, superblock: Superblock, leg: bytes, bitmap: RegionSet, stamp: int | None
) -> Sidecar:
    """A new metadata file for ``image``, in place of one that may be there. Atomic, and durable on return."""
    sectors = sector_count(region_count(superblock.size_bytes))

    def fill(file: File) -> None:
        _write_all(file, 0, _encode_slot(Slot(0, leg, stamp, superblock)))
        _write_all(file, _BITMAP_AT, b"".join(_encode_sector(number, bitmap.mask(number)) for number in range(sectors)))

    return Sidecar(create_file(host, path_of(image), _BITMAP_AT + sectors * _SECTOR_BYTES, fill))


def _write_all(file: File, offset: int, data: bytes) -> None:
    written = file.write(offset, data)
    if written != len(data):
        raise OSError(errno.EIO, f"{written} of {len(data)} bytes written", str(file.path))
