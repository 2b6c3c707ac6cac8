"""Kernel modules of a Debian kernel package: which ones a driver needs, in the order in which they can be loaded."""

import io
import lzma
from collections.abc import Iterable
from pathlib import Path

from elftools.elf.elffile import ELFFile

from ftvm.errors import UnusableFile


class ModuleTree:
    """The folder ``lib/modules/VERSION`` of an unpacked kernel package; it has no modules.dep, which depmod makes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = {_name(path): path for path in folder.rglob("*.ko*")}
        self._builtin = {_name(Path(line)) for line in (folder / "modules.builtin").read_text().splitlines()}

    def in_load_order(self, wanted: Iterable[str]) -> dict[str, bytes]:
        """The modules ``wanted`` and all that they need, by name, each after what it needs; built-in ones left out.

        Raises UnusableFile when the kernel has no such module.
        """
        loaded: dict[str, bytes] = {}
        for name in wanted:
            self._load(name, loaded)
        return loaded

    def _load(self, name: str, loaded: dict[str, bytes]) -> None:
        if name in loaded or name in self._builtin:
            return
        if name not in self._files:
            raise UnusableFile(f"the kernel {self._folder.name} has no module {name!r}")
        data = self._files[name].read_bytes()
        if self._files[name].suffix == ".xz":
            data = lzma.decompress(data)
        for needed in _depends(data):
            self._load(needed, loaded)
        loaded[name] = data


def _name(path: Path) -> str:
    """As the kernel writes it: ``virtio-rng.ko.xz`` is ``virtio_rng``."""
    return path.name.partition(".")[0].replace("-", "_")


def _depends(module: bytes) -> list[str]:
    """The ``depends=`` entry of the section .modinfo (NUL-terminated ``key=value`` strings)."""
    section = ELFFile(io.BytesIO(module)).get_section_by_name(".modinfo")
    entries = section.data().split(b"\0") if section is not None else []
    found = next((entry for entry in entries if entry.startswith(b"depends=")), b"")
    return [name.replace("-", "_") for name in found.decode().removeprefix("depends=").split(",") if name]
