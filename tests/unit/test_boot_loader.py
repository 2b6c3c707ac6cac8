"""Images are recognised by their contents, and whatever a file holds, it either boots or is refused in one sentence."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ftvm.boot import KINDS, BootPlan, load
from ftvm.errors import FtvmError, HostError, UnusableFile, UsageError
from ftvm.memory_map import BIOS, BIOS_BYTES, EBDA, ram_offset
from ftvm.units import GIB, MIB
from tests.unit.boot_images import (
    RAM_BYTES,
    Part,
    boot,
    boot_sector,
    bzimage,
    elf,
    multiboot1_header,
    multiboot2_header,
    pvh_note,
    start_registers,
    tag,
    write,
)

CODE = b"\xf4" * 64
KERNEL = Part(MIB, CODE, memory_bytes=0x2000)

IMAGES: dict[str, tuple[str, bytes]] = {
    "bzImage": ("linux", bzimage()),
    "multiboot 2 ELF": (
        "multiboot2",
        elf(Part(MIB, multiboot2_header(tag(6)) + CODE), bits=32, symbols={"start": MIB}),
    ),
    "multiboot 2 with addresses": (
        "multiboot2",
        multiboot2_header(tag(2, MIB, MIB, 0, 0), tag(3, MIB + 0x40)) + CODE,
    ),
    "multiboot 1 ELF": ("multiboot1", elf(Part(MIB, multiboot1_header(3) + CODE), bits=32, symbols={"start": MIB})),
    "multiboot 1 ELF64": ("multiboot1", elf(Part(MIB, multiboot1_header(3) + CODE))),
    "multiboot 1 with addresses": ("multiboot1", multiboot1_header(0, MIB, MIB, 0, 0, MIB + 0x20) + CODE),
    "PVH": ("pvh", elf(KERNEL, note=pvh_note(MIB))),
    "PVH 32": ("pvh", elf(KERNEL, note=pvh_note(MIB), bits=32)),
    "ELF64": ("elf64", elf(KERNEL, symbols={"main": MIB, "data": MIB + 8})),
    "ELF32": ("elf32", elf(KERNEL, bits=32)),
    "boot sector": ("flat", boot_sector()),
    "boot sector and more": ("flat", boot_sector(sectors=9)),
}


def assert_whole(plan: BootPlan, ram_bytes: int = RAM_BYTES) -> None:
    """What BootPlan promises: segments inside RAM, in order, without overlaps; the CPU starts in the firmware."""
    end = 0
    for segment in plan.segments:
        assert segment.data
        assert segment.gpa >= end
        end = segment.gpa + len(segment.data)
        first, last = ram_offset(segment.gpa, ram_bytes), ram_offset(end - 1, ram_bytes)
        assert first is not None and last is not None and last - first == len(segment.data) - 1
    assert BIOS <= plan.cs * 16 + plan.ip < BIOS + BIOS_BYTES


@pytest.mark.parametrize("name", IMAGES)
def test_the_protocol_follows_from_the_contents(tmp_path: Path, name: str) -> None:
    kind, image = IMAGES[name]
    plan = boot(tmp_path, image)
    assert plan.kind == kind
    assert_whole(plan)


@pytest.mark.parametrize("name", IMAGES)
def test_naming_the_right_protocol_changes_nothing(tmp_path: Path, name: str) -> None:
    kind, image = IMAGES[name]
    assert boot(tmp_path, image, protocol=kind) == boot(tmp_path, image)


def test_a_kernel_that_follows_several_protocols_can_be_booted_by_each(tmp_path: Path) -> None:
    headers = multiboot2_header() + multiboot1_header()
    image = elf(Part(MIB, headers + CODE), note=pvh_note(MIB))
    for kind in ("multiboot2", "multiboot1", "pvh", "elf64"):
        assert boot(tmp_path, image, protocol=kind).kind == kind
    assert boot(tmp_path, image).kind == "multiboot2"


def test_a_disk_with_a_multiboot_kernel_on_it_is_booted_through_its_boot_sector(tmp_path: Path) -> None:
    disk = boot_sector() + (multiboot1_header(0, MIB, MIB, 0, 0, MIB + 32) + CODE).ljust(1024, b"\0")
    assert boot(tmp_path, disk).kind == "flat"
    assert boot(tmp_path, disk, protocol="multiboot1").kind == "multiboot1"


def test_a_protocol_that_the_image_does_not_follow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="is no multiboot1 image"):
        boot(tmp_path, bzimage(), protocol="multiboot1")
    with pytest.raises(UsageError, match="no boot protocol 'efi'"):
        boot(tmp_path, bzimage(), protocol="efi")


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (boot_sector(), {"append": "quiet"}, "takes no command line"),
        (boot_sector(), {"initrd": "image"}, "takes no initrd"),
        (boot_sector(), {"modules": ["image"]}, "takes no modules"),
        (bzimage(), {"modules": ["image"]}, "takes no modules"),
        (elf(KERNEL), {"modules": ["image"]}, "takes no modules"),
        (elf(KERNEL), {"append": "a\0b"}, "NUL"),
    ],
)
def test_what_a_protocol_has_no_place_for_is_wrong_usage(
    tmp_path: Path, image: bytes, options: dict[str, object], message: str
) -> None:
    if "initrd" in options:
        options = {"initrd": tmp_path / "image"}
    if "modules" in options:
        options = {"modules": [tmp_path / "image"]}
    with pytest.raises(UsageError, match=message):
        boot(tmp_path, image, **options)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2 * GIB)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (Path.mkdir, "is a directory"),
        (Path.touch, "is empty"),
        (_fifo, "not a regular file"),
        (_huge, "at most 1G"),
        (lambda path: path.symlink_to(path), "cannot be read"),
        (lambda path: path.write_text("Once upon a time\n" * 99), "nothing that can be booted"),
        (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(500)), "compressed with gzip"),
        (lambda path: path.write_bytes(b"MZ" + bytes(500)), "an EFI or DOS program"),
    ],
)
def test_a_file_that_is_no_image_is_named_with_its_fault(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "kernel"
    make(path)
    with pytest.raises(UnusableFile, match=message) as caught:
        load(path, ram_bytes=RAM_BYTES)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_an_initrd_must_be_a_file_that_fits(tmp_path: Path) -> None:
    for make, message in ((Path.mkdir, "is a directory"), (Path.touch, "is empty"), (_huge, "at most 64M")):
        initrd = tmp_path / message
        make(initrd)
        with pytest.raises(UnusableFile, match=f"initrd .*{message}"):
            boot(tmp_path, bzimage(), initrd=initrd)


def test_a_path_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(UnusableFile, match="is not a path"):
        load(Path("a\0b"), ram_bytes=RAM_BYTES)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (elf(KERNEL)[:40], "damaged ELF"),
        (elf(KERNEL)[:70], "damaged ELF"),
        (elf(KERNEL)[:-40], "truncated ELF"),
        (elf(KERNEL, machine=40), "another machine"),
        (elf(KERNEL, kind=1), "not an executable"),
        (elf(Part(MIB, CODE, memory_bytes=8)), "larger in the file than in memory"),
        (elf(Part(MIB, b"")), "without anything to load"),
        (elf(Part(0x100, CODE)), "BIOS has its data"),
        (elf(Part(EBDA - 8, CODE)), "no RAM"),
        (elf(Part(0xB8000, CODE)), "no RAM"),
        (elf(Part(RAM_BYTES - 8, CODE)), "RAM ends at 0x4000000"),
        (elf(Part(0xFFFFFFFF81000000, CODE)), "no RAM"),
        (elf(Part(MIB, CODE, memory_bytes=1 << 63)), "no RAM"),
        (elf(KERNEL, Part(MIB + 0x1FFF, CODE)), "another part of it"),
        (elf(KERNEL, entry=MIB - 1), "where it loads nothing"),
        (elf(KERNEL, entry=MIB + 0x1000), "where it loads nothing"),
        (elf(KERNEL, note=struct.pack("<III4sHxx", 4, 2, 18, b"Xen\0", 1)), "damaged PVH note"),
        (boot_sector(sectors=63 * 2048 + 1), "does not fit in 64M of RAM"),
    ],
)
def test_an_image_that_cannot_be_loaded_says_why(tmp_path: Path, image: bytes, message: str) -> None:
    with pytest.raises(UnusableFile, match=message) as caught:
        boot(tmp_path, image)
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint


def test_the_hint_names_the_memory_that_would_do(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile) as caught:
        boot(tmp_path, elf(Part(100 * MIB, CODE)))
    assert caught.value.hint == "give the machine at least 101M with --memory"
    boot(tmp_path, elf(Part(100 * MIB, CODE)), ram_bytes=101 * MIB)


def test_a_program_for_linux_is_no_kernel(tmp_path: Path) -> None:
    image = bytearray(elf(KERNEL, note=b"/lib64/ld-linux-x86-64.so.2\0"))
    struct.pack_into("<I", image, 64 + 56, 3)  # the second program header becomes PT_INTERP
    with pytest.raises(UnusableFile, match="not a kernel"):
        boot(tmp_path, bytes(image))


def test_a_kernel_may_reach_above_4_gib_but_not_start_there(tmp_path: Path) -> None:
    high = 5 * GIB
    assert_whole(boot(tmp_path, elf(KERNEL, Part(high, CODE)), ram_bytes=8 * GIB), 8 * GIB)
    for image in (
        elf(Part(high, CODE)),
        elf(Part(high, multiboot1_header() + CODE), entry=high + 12),
        bzimage(preferred=high),
    ):
        with pytest.raises(UnusableFile, match="4 GiB"):
            boot(tmp_path, image, ram_bytes=8 * GIB)


def test_an_installation_without_its_boot_stubs_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftvm.boot.firmware.STUBS", tmp_path)
    with pytest.raises(HostError, match=r"boot stub .* is missing"):
        boot(tmp_path, boot_sector())


def test_symbols_reach_the_debugger(tmp_path: Path) -> None:
    for bits in (32, 64):
        plan = boot(tmp_path, elf(KERNEL, bits=bits, symbols={"main": MIB, "buffer": MIB + 8}))
        assert plan.symbols == {"main": MIB, "buffer": MIB + 8}


def test_a_higher_half_kernel_starts_at_its_physical_entry_point(tmp_path: Path) -> None:
    high = 0xFFFFFFFF80000000
    plan = boot(tmp_path, elf(Part(MIB, CODE, vaddr=high + MIB), entry=high + MIB + 4))
    assert start_registers(plan)[0] == MIB + 4


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid image, cut short or with bytes changed; more often in its first part, where headers are."""
    _, image = IMAGES[draw(st.sampled_from(sorted(IMAGES)))]
    data = bytearray(image)
    for _ in range(draw(st.integers(0, 4))):
        reach = draw(st.sampled_from((64, 0x240, len(data))))
        at = draw(st.integers(0, min(reach, len(data)) - 1))
        patch = draw(
            st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from((b"\xff" * 8, bytes(8), b"\xff" * 4)))
        )
        data[at : at + len(patch)] = patch[: len(data) - at]
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(1, len(data))))])


@settings(max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
@given(image=damaged(), with_module=st.booleans(), ram_bytes=st.sampled_from((2 * MIB, RAM_BYTES, 8 * GIB)))
def test_a_damaged_image_boots_or_is_refused(image: bytes, with_module: bool, ram_bytes: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        modules = [write(folder, b"module", "module")] if with_module else []
        try:
            plan = boot(folder, image, modules=modules, ram_bytes=ram_bytes)
        except FtvmError as error:
            assert isinstance(error, UnusableFile | UsageError)
            assert "\n" not in error.message and error.hint
        else:
            assert_whole(plan, ram_bytes)
            assert plan.kind in KINDS
            assert sum(len(segment.data) for segment in plan.segments) < 4 * len(image) + 128 * 1024


@settings(max_examples=300)
@given(
    image=st.binary(min_size=1, max_size=2048),
    magic=st.sampled_from((b"", b"\x7fELF\x02\x01\x01", b"\x7fELF\x01\x01\x01")),
)
@example(image=bytes(512), magic=b"")
def test_noise_is_refused(image: bytes, magic: bytes) -> None:
    with TemporaryDirectory() as name, pytest.raises(UnusableFile):
        boot(Path(name), magic + image)
