"""A virtio disk: its features and its configuration. Source: Virtual I/O Device (VIRTIO) 1.2, 5.2.

Requests are served by ftvm/monitor/block.py.
"""

import struct

from ftvm.module.chips.virtio_pci import VirtioPci, Wires

DEVICE_TYPE = 2
CLASS_CODE = 0x010000  # mass storage, SCSI: what kernels expect of virtio disks
QUEUE_SIZE = 256

# Feature bits (5.2.3)
SIZE_MAX = 1 << 1
SEG_MAX = 1 << 2
READ_ONLY = 1 << 5
BLK_SIZE = 1 << 6
FLUSH = 1 << 9
TOPOLOGY = 1 << 10
DISCARD = 1 << 13
WRITE_ZEROES = 1 << 14

SECTOR_BYTES = 512
"""Of the protocol, whatever the disk's blocks are."""
MAX_SEGMENT_BYTES = 64 << 10
MAX_SEGMENTS = QUEUE_SIZE - 2  # beside the header and the status
MAX_REQUEST_BYTES = MAX_SEGMENT_BYTES * MAX_SEGMENTS
"""What a driver that keeps to the two above can ask for at once."""
MAX_CLEAR_SECTORS = 1 << 21
"""Of one discard or write-zeroes segment: 1 GiB."""
MAX_CLEAR_SEGMENTS = 16
_PHYSICAL_BLOCK_EXPONENT = 3  # 8 logical blocks
_OPTIMAL_IO_BLOCKS = 128  # 64 KiB, a region of the mirror (docs/mirror.md)

_CONFIG = struct.Struct("<QII HBB I BBHI BBH IIIIIB3x")


class VirtioBlk(VirtioPci):
    """A disk of ``size_bytes``, whole sectors; a last part of one is out of reach."""

    def __init__(self, size_bytes: int, read_only: bool, wires: Wires) -> None:
        features = SIZE_MAX | SEG_MAX | BLK_SIZE | FLUSH | TOPOLOGY
        features |= READ_ONLY if read_only else DISCARD | WRITE_ZEROES
        super().__init__(DEVICE_TYPE, CLASS_CODE, features, (QUEUE_SIZE,), wires)
        self._config = _CONFIG.pack(
            size_bytes // SECTOR_BYTES,
            MAX_SEGMENT_BYTES,
            MAX_SEGMENTS,
            *(0, 0, 0),  # cylinders, heads, sectors: no GEOMETRY
            SECTOR_BYTES,
            *(_PHYSICAL_BLOCK_EXPONENT, 0, 1, _OPTIMAL_IO_BLOCKS),
            *(0, 0, 1),  # writeback cache and its switch: no CONFIG_WCE; queues
            MAX_CLEAR_SECTORS,
            MAX_CLEAR_SEGMENTS,
            1 << _PHYSICAL_BLOCK_EXPONENT,  # alignment of a discard in sectors
            MAX_CLEAR_SECTORS,
            MAX_CLEAR_SEGMENTS,
            1,  # write-zeroes may give space back
        )

    def read_config(self, offset: int, size: int) -> int:
        return int.from_bytes(self._config[offset : offset + size], "little")
