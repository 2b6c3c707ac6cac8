"""Getting guests from Debian's archive into the cache.

A guest is built whole in a temporary folder and then renamed into place: a fetch that is killed leaves the guest as it
was, or as it is now, or none, never half of one.
"""

import fcntl
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ftvm.errors import HostError, UsageError
from ftvm.guests import initramfs
from ftvm.guests.apt import Apt, Package
from ftvm.guests.catalogue import (
    INITRD,
    KERNEL,
    MANIFEST,
    MANIFEST_VERSION,
    Manifest,
    cache,
    guest_folder,
    read_manifest,
)
from ftvm.guests.modules import ModuleTree

LINUX_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "crc32c_generic", "ext4")
"""Loaded by a Linux guest's init, with all that they need. ext4 needs crc32c too, but only asks for it at mount."""


@dataclass(frozen=True)
class Recipe:
    """How to make a guest of ``package``. ``kernel`` is a pattern of paths in it; ``linux`` adds a root file system."""

    description: str
    package: str
    kernel: str
    kind: str
    append: str = ""
    ready: str | None = None
    linux: bool = False


RECIPES = {
    "debian": Recipe(
        "Debian's standard kernel with a busybox shell",
        "linux-image-amd64",
        "boot/vmlinuz-*",
        kind="linux",
        append="console=ttyS0",
        ready=initramfs.READY,
        linux=True,
    ),
    "debian-cloud": Recipe(
        "Debian's kernel for virtual machines with a busybox shell",
        "linux-image-cloud-amd64",
        "boot/vmlinuz-*",
        kind="linux",
        append="console=ttyS0",
        ready=initramfs.READY,
        linux=True,
    ),
    "grub-invaders": Recipe(
        "a game for the bare machine, in VGA text mode", "grub-invaders", "boot/invaders.exec", kind="multiboot1"
    ),
    "memtest86+": Recipe(
        "tests of the machine's memory",
        "memtest86+",
        "boot/memtest86+x64.bin",
        kind="linux",
        append="console=ttyS0,115200",
    ),
}


def fetch(name: str) -> bool:
    """Get ``name`` into the cache; False when it was there already in its newest version.

    Raises UsageError for a name without a recipe, HostError when apt, the network or the disk fails.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        raise UsageError(f"no guest {name!r} can be fetched", f"these can: {', '.join(RECIPES)}")
    folder = guest_folder(name)
    try:
        with _locked(folder.parent), tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
            return _fetch(folder, recipe, Path(scratch))
    except OSError as error:
        raise HostError(f"the cache {folder.parent} cannot be used: {error.strerror}", "see XDG_CACHE_HOME") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One fetch at a time; another one waits, and then finds what it wanted."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(folder: Path, recipe: Recipe, scratch: Path) -> bool:
    apt = Apt(cache() / "apt")
    packages = [_resolve(apt, recipe.package)]
    if recipe.linux:
        packages.append(apt.newest("busybox-static"))
    present = read_manifest(folder.name)
    if present is not None and present.made_of == _ingredients(recipe, packages):
        return False

    unpacked = [apt.unpack(package, scratch / f"package-{index}") for index, package in enumerate(packages)]
    built = scratch / "guest"
    built.mkdir()
    shutil.copyfile(_only(scratch / "package-0", recipe.kernel), built / KERNEL)
    if recipe.linux:
        (built / INITRD).write_bytes(_root_file_system(kernel=scratch / "package-0", busybox=scratch / "package-1"))
    manifest = Manifest(
        version=MANIFEST_VERSION,
        made_of=_ingredients(recipe, unpacked),
        append=recipe.append,
        kind=recipe.kind,
        ready=recipe.ready,
        description=recipe.description,
    )
    (built / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    if folder.exists():
        folder.rename(scratch / "old")
    built.rename(folder)
    return True


def _resolve(apt: Apt, name: str) -> Package:
    """The package itself, or the one that a meta-package (``linux-image-amd64``) stands for."""
    package = apt.newest(name)
    real = re.match(r"(linux-image-\S+) \(= ", package.depends)
    return apt.newest(real[1]) if real else package


def _ingredients(recipe: Recipe, packages: list[Package]) -> dict[str, str]:
    """Everything that decides what the guest is, with its version."""
    ours = repr((recipe, LINUX_MODULES, initramfs.init_script()))
    versions = {package.name: package.version for package in packages}
    return versions | {"recipe": hashlib.sha256(ours.encode()).hexdigest()[:16]}


def _root_file_system(kernel: Path, busybox: Path) -> bytes:
    program = _only(busybox, "**/bin/busybox")
    modules = ModuleTree(_only(kernel, "**/lib/modules/*"))
    applets = subprocess.run([program, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return initramfs.build(program.read_bytes(), applets, modules.in_load_order(LINUX_MODULES))


def _only(folder: Path, pattern: str) -> Path:
    """The one path below ``folder`` that the package is known to hold."""
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise HostError(f"the package has {len(found)} files {pattern!r}, not one", "a newer ftvm may know its layout")
    return found[0]
