"""The root file system of a fetched Linux guest: the archive, the order of the modules."""

import gzip
import subprocess
from pathlib import Path

import pytest

from ftvm.errors import UnusableFile
from ftvm.guests import cpio, initramfs
from ftvm.guests.modules import ModuleTree


def test_cpio_reads_the_archive_as_it_was_meant(tmp_path: Path) -> None:
    entries = [
        cpio.directory("bin"),
        cpio.directory("dev"),
        cpio.directory("tmp", 0o1777),
        cpio.character_device("dev/console", 5, 1),
        cpio.file("bin/tool", b"x" * 4097, 0o755),
        cpio.file("bin/empty", b""),
        cpio.symlink("bin/link", "tool"),
    ]
    listing = subprocess.run(
        ["cpio", "--list", "--verbose", "--numeric-uid-gid"],
        input=cpio.archive(entries),
        capture_output=True,
        check=True,
        env={"TZ": "UTC", "LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    )
    columns = [line.split() for line in listing.stdout.decode().splitlines()]
    assert [(words[0], words[4], " ".join(words[8:])) for words in columns] == [
        ("drwxr-xr-x", "0", "bin"),
        ("drwxr-xr-x", "0", "dev"),
        ("drwxrwxrwt", "0", "tmp"),
        ("crw-------", "5,", "1970 dev/console"),
        ("-rwxr-xr-x", "4097", "bin/tool"),
        ("-rw-r--r--", "0", "bin/empty"),
        ("lrwxrwxrwx", "4", "bin/link -> tool"),
    ]
    subprocess.run(
        ["cpio", "--extract", "--make-directories", "bin/tool"], input=cpio.archive(entries), cwd=tmp_path, check=True
    )
    assert (tmp_path / "bin/tool").read_bytes() == b"x" * 4097


def test_equal_ingredients_give_equal_bytes() -> None:
    def build() -> bytes:
        return initramfs.build(b"busybox", ["[", "sh"], {"virtio": b"1", "virtio_pci": b"2"})

    assert build() == build()
    assert gzip.decompress(build()).startswith(b"070701")


def module(folder: Path, name: str, depends: str) -> None:
    """A file that says about itself what a kernel module does."""
    source = (
        f'const char info[] __attribute__((section(".modinfo"))) = "license=GPL\\0depends={depends}\\0name={name}";'
    )
    command = ["gcc", "-x", "c", "-c", "-", "-o", str(folder / f"{name}.ko")]
    subprocess.run(command, input=source, text=True, check=True)


@pytest.fixture
def tree(tmp_path: Path) -> ModuleTree:
    module(tmp_path, "virtio", "")
    module(tmp_path, "virtio_ring", "virtio")
    module(tmp_path, "virtio-pci", "virtio-ring,virtio")
    module(tmp_path, "virtio_blk", "virtio,virtio_ring,crc32")
    (tmp_path / "modules.builtin").write_text("kernel/lib/crc32.ko\nkernel/fs/ext4/ext4.ko\n")
    return ModuleTree(tmp_path)


def test_a_module_comes_after_all_that_it_needs_and_once(tree: ModuleTree) -> None:
    assert list(tree.in_load_order(["virtio_blk", "virtio_pci"])) == [
        "virtio",
        "virtio_ring",
        "virtio_blk",
        "virtio_pci",
    ]


def test_what_is_built_into_the_kernel_is_not_loaded(tree: ModuleTree) -> None:
    assert tree.in_load_order(["ext4"]) == {}


def test_a_module_that_the_kernel_lacks_is_named(tree: ModuleTree) -> None:
    with pytest.raises(UnusableFile, match="no module 'zfs'"):
        tree.in_load_order(["zfs"])
