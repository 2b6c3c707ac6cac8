"""The root file system of a fetched Linux guest: busybox, the kernel's own modules, and init.sh."""

import gzip
from importlib import resources

from ftvm.guests import cpio

READY = "~ # "
"""The shell's prompt: from here on the guest reads its console."""


def init_script() -> bytes:
    return resources.files("ftvm.guests").joinpath("init.sh").read_bytes()


def build(busybox: bytes, applets: list[str], modules: dict[str, bytes]) -> bytes:
    """A gzip-compressed cpio archive; equal arguments give equal bytes. ``modules`` are in load order."""
    entries = [
        cpio.directory(path) for path in ("bin", "dev", "etc", "lib", "lib/modules", "mnt", "proc", "root", "sys")
    ]
    entries += [
        cpio.directory("tmp", 0o1777),
        cpio.symlink("sbin", "bin"),
        # The kernel opens this one for init before anything is mounted.
        cpio.character_device("dev/console", 5, 1),
        cpio.character_device("dev/null", 1, 3, 0o666),
        cpio.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        cpio.file("etc/group", b"root:x:0:\n"),
        cpio.file("init", init_script(), 0o755),
        cpio.file("bin/busybox", busybox, 0o755),
    ]
    entries += [cpio.symlink(f"bin/{applet}", "busybox") for applet in applets if applet != "busybox"]
    entries += [cpio.file(f"lib/modules/{name}.ko", data) for name, data in modules.items()]
    entries.append(cpio.file("lib/modules/order", "".join(f"{name}.ko\n" for name in modules).encode()))
    return gzip.compress(cpio.archive(entries), mtime=0)
