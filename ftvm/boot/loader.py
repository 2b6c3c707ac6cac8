"""From an image file to a start state: which protocol the image follows is found out from its contents."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from ftvm.boot import firmware, flat, linux, multiboot1, multiboot2, plain, pvh
from ftvm.boot.firmware import Entry
from ftvm.boot.image import MAX_IMAGE_BYTES, Image, Module, read_file
from ftvm.boot.job import Job
from ftvm.boot.layout import Layout
from ftvm.boot.plan import BootPlan
from ftvm.errors import UnusableFile, UsageError
from ftvm.memory_map import HIGH_RAM


class Protocol(msgspec.Struct, frozen=True):
    """A way to boot. ``takes`` names what it has a place for beside the image."""

    kind: str
    matches: Callable[[Image], bool]
    load: Callable[[Job], Entry]
    takes: frozenset[str]


_COMMAND_LINE, _INITRD, _MODULES = "command line", "initrd", "modules"
_ALL = frozenset({_COMMAND_LINE, _INITRD, _MODULES})

PROTOCOLS = (
    Protocol("linux", linux.matches, linux.load, _ALL - {_MODULES}),
    Protocol("flat", flat.matches, flat.load, frozenset()),
    Protocol("multiboot2", multiboot2.matches, multiboot2.load, _ALL),
    Protocol("multiboot1", multiboot1.matches, multiboot1.load, _ALL),
    Protocol("pvh", pvh.matches, pvh.load, _ALL),
    Protocol("elf64", plain.matches64, plain.load, _ALL - {_MODULES}),
    Protocol("elf32", plain.matches32, plain.load, _ALL - {_MODULES}),
)
"""In the order in which an image is offered to them. Boot sectors come before multiboot: what boots a disk may be
followed by a multiboot kernel on it (GRUB is one), and is meant.
"""

KINDS = tuple(protocol.kind for protocol in PROTOCOLS)


def load(
    image: Path,
    *,
    initrd: Path | None = None,
    append: str = "",
    ram_bytes: int,
    modules: Sequence[Path | str] = (),
    protocol: str | None = None,
) -> BootPlan:
    """The start state of a machine with ``ram_bytes`` of RAM that boots ``image``.

    ``modules``: files, each with its arguments behind a blank if it has any. ``protocol`` (one of KINDS) insists on
    one where an image follows several. Raises UnusableFile for files that cannot be booted so, UsageError
    for arguments that do not go with the image.
    """
    if protocol is not None and protocol not in KINDS:
        raise UsageError(f"there is no boot protocol {protocol!r}", f"known are {', '.join(KINDS)}")
    contents = Image(image, read_file(image, "image", MAX_IMAGE_BYTES))
    chosen = _recognise(contents, protocol)
    for what, given in ((_COMMAND_LINE, append), (_INITRD, initrd), (_MODULES, modules)):
        if given and what not in chosen.takes:
            raise UsageError(f"image {image} is booted as {chosen.kind}, which takes no {what}", "leave it out")

    layout = Layout(ram_bytes)
    job = Job(
        image=contents,
        layout=layout,
        append=append,
        initrd=Module(initrd, read_file(initrd, "initrd", ram_bytes)) if initrd else None,
        modules=tuple(_module(str(module), ram_bytes) for module in modules),
    )
    entry = chosen.load(job)
    if not any(segment.gpa <= entry.ip < segment.gpa + len(segment.data) for segment in layout.segments):
        raise UnusableFile(f"image {image} starts at 0x{entry.ip:x}, where it loads nothing", "check its entry point")
    if entry.ip >= HIGH_RAM:
        raise UnusableFile(f"image {image} starts at 0x{entry.ip:x}, but kernels start below 4 GiB", "link it lower")
    reset = firmware.install(ram_bytes, entry)
    return BootPlan(
        kind=chosen.kind,
        segments=tuple(sorted((*reset.segments, *layout.segments), key=lambda segment: segment.gpa)),
        cs=reset.cs,
        ip=reset.ip,
        registers=reset.registers,
        symbols=contents.elf.symbols() if contents.elf else {},
    )


def _module(text: str, ram_bytes: int) -> Module:
    """``text`` is a file's path, or one with arguments behind a blank."""
    path, arguments = text, ""
    if not Path(text).exists():
        path, _, arguments = text.partition(" ")
    return Module(Path(path), read_file(Path(path), "module", ram_bytes), arguments.strip())


def _recognise(image: Image, kind: str | None) -> Protocol:
    for protocol in PROTOCOLS:
        if kind in (None, protocol.kind) and protocol.matches(image):
            return protocol
    if kind is not None:
        raise UnusableFile(f"image {image.path} is no {kind} image", "leave the protocol out to find out what it is")
    for magic, format_name in _NEARLY_IMAGES.items():
        if image.data.startswith(magic):
            raise UnusableFile(f"image {image.path} is {format_name}", _NEARLY_HINT)
    raise UnusableFile(f"image {image.path} is nothing that can be booted", _HINT)


_HINT = "give a bzImage, an ELF or multiboot kernel, or a boot sector that ends in 55 AA"
_NEARLY_HINT = "extract the kernel from it"
_NEARLY_IMAGES = {
    b"\x1f\x8b": "compressed with gzip",
    b"\xfd7zXZ\0": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"MZ": "an EFI or DOS program",
}
