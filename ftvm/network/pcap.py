"""Writes what the guest sent and received to a file that tcpdump and Wireshark read.

Format: the classic one, with nanoseconds; its times are virtual, so the same run gives the same file. A frame whose
checksums or segments were left to the NIC is written as the guest made it.
"""

import struct
from collections.abc import Callable
from pathlib import Path

from ftvm.errors import HostError
from ftvm.network.frame import MAX_FRAME_BYTES

MAGIC = 0xA1B2_3C4D
LINK_ETHERNET = 1
_FILE = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")


class PcapFile:
    """Raises HostError when the file cannot be written. When that happens later, ``trouble`` says why, and the rest is
    missing: the machine goes on."""

    def __init__(self, path: Path) -> None:
        self.trouble: str | None = None
        try:
            self._file = path.open("wb")
            self._file.write(_FILE.pack(MAGIC, 2, 4, 0, 0, MAX_FRAME_BYTES, LINK_ETHERNET))
            self._file.flush()
        except OSError as error:
            raise HostError(f"the capture {path} cannot be written: {error.strerror}", "give another file") from None

    def write(self, virtual_ns: int, frame: bytes) -> None:
        seconds, nanoseconds = divmod(virtual_ns, 1_000_000_000)
        record = _RECORD.pack(seconds & 0xFFFF_FFFF, nanoseconds, len(frame), len(frame))
        self._attempt(lambda: self._file.write(record + frame))

    def flush(self) -> None:
        self._attempt(self._file.flush)

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            self.trouble = self.trouble or error.strerror

    def _attempt(self, action: Callable[[], object]) -> None:
        if self.trouble is None:
            try:
                action()
            except OSError as error:
                self.trouble = error.strerror
