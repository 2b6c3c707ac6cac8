"""A writer of cpio archives in the ``newc`` format, which the kernel unpacks as an initramfs.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of the Linux kernel. Device nodes need no privilege
here, and equal entries give equal bytes: no time, owner or inode number of the host gets in.
"""

import stat
from dataclasses import dataclass

_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """A file of any type. ``mode`` has type and permissions; ``data`` is a file's content or a link's target."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str, permissions: int = 0o755) -> Entry:
    return Entry(path, stat.S_IFDIR | permissions)


def file(path: str, data: bytes, permissions: int = 0o644) -> Entry:
    return Entry(path, stat.S_IFREG | permissions, data)


def symlink(path: str, target: str) -> Entry:
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int, permissions: int = 0o600) -> Entry:
    return Entry(path, stat.S_IFCHR | permissions, device=(major, minor))


def archive(entries: list[Entry]) -> bytes:
    """The archive of ``entries`` in their order (a directory before what is in it), paths without a leading slash."""
    members = [_member(inode, entry) for inode, entry in enumerate(entries, start=1)]
    return b"".join([*members, _member(0, Entry(_TRAILER, 0))])


def _member(inode: int, entry: Entry) -> bytes:
    name = entry.path.encode() + b"\0"
    fields = (
        inode,
        entry.mode,
        0,  # user
        0,  # group
        2 if stat.S_ISDIR(entry.mode) else 1,  # links
        0,  # time of last change
        len(entry.data),
        0,  # device that the file is on, major and minor
        0,
        *entry.device,
        len(name),
        0,  # checksum, unused in this variant
    )
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
