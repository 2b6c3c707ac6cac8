"""Builds what is not Python: the native core (native/) and the guest code (firmware/). Metadata: pyproject.toml."""

import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Extension, setup
from setuptools.command.build import build as _build
from setuptools.command.build_ext import build_ext as _build_ext

ROOT = Path(__file__).parent.resolve()
PRODUCTS = ("stubs", "kernels")
"""What the package needs of what firmware/Makefile makes."""


def give_up(what: str, remedy: str) -> SystemExit:
    return SystemExit(f"error: ftvm cannot be built: {what}; {remedy}")


def compiler() -> list[str]:
    """The C compiler's command line, as distutils will find it."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def require_program(program: str, package: str) -> None:
    if shutil.which(program) is None:
        raise give_up(f"the program {program!r} is missing", f"install it (Debian: apt-get install {package})")


def require_header(header: str, package: str) -> None:
    """Preprocess a file that includes nothing but ``header``."""
    folders = [sysconfig.get_path("include"), sysconfig.get_path("platinclude")]
    command = [*compiler(), "-E", *(f"-I{folder}" for folder in folders), "-x", "c", "-"]
    probe = subprocess.run(command, input=f"#include <{header}>\n", capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        raise give_up(f"the header <{header}> is missing", f"install it (Debian: apt-get install {package})")


class check_host(Command):
    """Look for what the build needs beside Python packages, so that what is missing is said in one sentence."""

    description = "look for the programs and headers that the build needs"
    user_options: ClassVar = []

    def initialize_options(self) -> None:
        pass

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        require_program("make", "make")
        require_program("gcc", "gcc")
        require_program("ld", "binutils")
        require_program(compiler()[0], "gcc")
        require_header("stdio.h", "libc6-dev")
        require_header("Python.h", "python3-dev")


class build_firmware(Command):
    """Build boot stubs and test kernels (guest code) and put them into the package as ``ftvm/firmware``."""

    description = "build the boot stubs and the test kernels"
    user_options: ClassVar = []

    def initialize_options(self) -> None:
        self.build_lib = None
        self.editable_mode = False

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def destination(self) -> Path:
        return (ROOT if self.editable_mode else Path(self.build_lib)) / "ftvm" / "firmware"

    def run(self) -> None:
        made = ROOT / "build" / "firmware"
        for product in PRODUCTS:  # a kernel that was taken out of the sources must not live on
            shutil.rmtree(made / product, ignore_errors=True)
            shutil.rmtree(self.destination() / product, ignore_errors=True)
        make = ["make", "--no-print-directory", "-C", str(ROOT / "firmware"), f"OUT={made}"]
        if subprocess.run(make, check=False).returncode != 0:
            raise give_up("'make -C firmware' failed", "its messages are above")
        for product in PRODUCTS:
            shutil.copytree(made / product, self.destination() / product)

    def get_source_files(self) -> list[str]:
        return [str(path.relative_to(ROOT)) for path in (ROOT / "firmware").rglob("*") if path.is_file()]

    def get_outputs(self) -> list[str]:
        return [str(path) for path in self.destination().rglob("*") if path.is_file()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class build_benchmarks(Command):
    """Put the benchmarks into the package as ``ftvm/benchmarks``, for ``ftvm bench``; a checkout has them beside it."""

    description = "copy the benchmarks into the package"
    user_options: ClassVar = []

    def initialize_options(self) -> None:
        self.build_lib = None
        self.editable_mode = False

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        if self.editable_mode:
            return
        shutil.rmtree(self._folder(), ignore_errors=True)
        self._folder().mkdir(parents=True)
        for file in self._files():
            shutil.copy(file, self._folder())

    def _folder(self) -> Path:
        return Path(self.build_lib) / "ftvm" / "benchmarks"

    def _files(self) -> list[Path]:
        return sorted(path for path in (ROOT / "benchmarks").iterdir() if path.suffix in (".py", ".md", ".toml", ".c"))

    def get_source_files(self) -> list[str]:
        return [str(path.relative_to(ROOT)) for path in self._files()]

    def get_outputs(self) -> list[str]:
        return [] if self.editable_mode else [str(self._folder() / path.name) for path in self._files()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class build_ext(_build_ext):
    """Build ``ftvm._native`` (native/build.py says from what)."""

    def build_extension(self, ext: Extension) -> None:
        if not self.inplace:
            # Debug information names the folders of the machine that built it; a wheel travels.
            ext.extra_compile_args.append("-g0")
        super().build_extension(ext)


class build(_build):
    sub_commands: ClassVar = [
        ("check_host", None),
        ("build_firmware", None),
        ("build_benchmarks", None),
        *_build.sub_commands,
    ]


setup(
    cffi_modules=["native/build.py:ffibuilder"],
    cmdclass={
        "build": build,
        "build_benchmarks": build_benchmarks,
        "build_ext": build_ext,
        "build_firmware": build_firmware,
        "check_host": check_host,
    },
    # cffi keeps to the limited API by itself; one wheel serves every later Python.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
