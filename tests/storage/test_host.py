"""What the host does for us: locks that others see, and holes."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ftvm.storage.host import Access, File, InUse, LocalHost, create_file
from tests.storage.disks import make, opened

HOST = LocalHost()


def test_one_may_write_or_many_may_read_and_anybody_may_peek(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    create_file(HOST, path, 4096).close()
    readers = [HOST.open(path, Access.SHARED) for _ in range(2)]
    with pytest.raises(InUse):
        HOST.open(path, Access.EXCLUSIVE)
    for reader in readers:
        reader.close()
    writer = HOST.open(path, Access.EXCLUSIVE)
    for access in (Access.EXCLUSIVE, Access.SHARED):
        with pytest.raises(InUse):
            HOST.open(path, access)
    HOST.open(path, Access.PEEK).close()
    writer.close()
    writer.close()
    HOST.open(path, Access.EXCLUSIVE).close()


def qemu(image: Path) -> subprocess.Popen[str]:
    """Has the image open as a disk; its first words say that it does, or why not."""
    program = shutil.which("qemu-system-x86_64")
    assert program is not None
    drive = f"file={image},format=raw,if=virtio"
    command = [program, "-S", "-display", "none", "-nodefaults", "-monitor", "stdio", "-drive", drive]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_qemu_refuses_a_leg_that_is_in_use(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with opened(paths):
        _, complaint = qemu(paths[0]).communicate("quit\n")
    assert "lock" in complaint


def test_a_leg_that_qemu_has_open_is_refused(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with qemu(paths[0]) as process:
        assert process.stdin is not None and process.stdout is not None
        assert "QEMU" in process.stdout.readline()
        with pytest.raises(InUse, match="in use by another process"):
            HOST.open(paths[0], Access.EXCLUSIVE)
        process.communicate("quit\n")
    HOST.open(paths[0], Access.EXCLUSIVE).close()


def test_a_new_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def fail(file: object) -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        create_file(HOST, path, 4096, fail)
    assert not path.exists()

    def fill(file: File) -> None:
        file.write(0, b"x")

    file = create_file(HOST, path, 4096, fill)
    assert (file.path, file.size(), bytes(file.read(0, 2))) == (path, 4096, b"x\0")
    file.close()
    assert [path] == list(tmp_path.iterdir())


def test_holes_are_found_and_made(tmp_path: Path) -> None:
    file = create_file(HOST, tmp_path / "a", 1 << 20)
    assert file.next_data(0) is None
    file.write(65536, bytes(range(256)) * 256)
    assert file.next_data(0) == (65536, 131072)
    assert file.read_cached(65536, 256) in (bytes(range(256)), None)
    file.zero(65536, 65536, punch=True)
    file.sync()
    assert file.next_data(0) is None
    assert file.read((1 << 20) - 1, 10) == b"\0"
    file.close()
