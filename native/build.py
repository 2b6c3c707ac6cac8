"""Describes the extension module ``ftvm._native`` to cffi (API mode): see ARCHITECTURE.md, "The native core".

setup.py calls this through ``cffi_modules``. Run by hand it checks that the pinned Unicorn is the one installed.
"""

import hashlib
import importlib.util
import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
UNICORN_VERSION = "2.1.4"
UNICORN_SHA256 = "bb556269ec90752e3b3ded2f3fc6a397427ca73e30ca4818d3cfb05621b5e210"
"""Of libunicorn.a in the manylinux x86-64 wheel. native/engine.c knows the layout of this build and no other."""

REPLACED = [  # linked as __wrap_NAME wherever another object calls NAME; see native/engine.c
    "gettimeofday",
    "qemu_system_reset_request",
    "qht_remove",
    *(
        f"{name}_x86_64"
        for name in (
            "helper_check_exit_request",
            "gen_intermediate_code",
            "get_page_addr_code",
            "helper_reset_rf",
            "tcg_gen_callN",
            "x86_cpu_tlb_fill",
            "tlb_set_page_with_attrs",
            "tlb_flush",
            "tlb_flush_page",
            "tcg_region_reset_all",
            "tcg_optimize",
            "helper_lookup_tb_ptr",
            "tlb_protect_code",
            "tlb_unprotect_code",
            "tb_invalidate_phys_page_fast",
            "tlb_reset_dirty_by_vaddr",
            "x86_stl_phys_notdirty",
            "cpu_ldub_code",
            "cpu_lduw_code",
            "cpu_ldl_code",
            "cpu_ldq_code",
            "x86_ldl_phys",
            "x86_ldq_phys",
            "cpu_watchpoint_address_matches",
            "cpu_check_watchpoint",
            "helper_set_dr",
            "helper_sti",
            "helper_write_eflags",
            "helper_iret_real",
            "helper_iret_protected",
            "helper_sysret",
            "helper_ljmp_protected",
            "helper_lcall_protected",
            "raise_exception_err",
            "helper_raise_interrupt",
            "helper_into",
            "helper_hlt",
            "helper_cpuid",
            "helper_rdtsc",
            "helper_rdtscp",
            "helper_rdmsr",
            "helper_wrmsr",
            "helper_rdrand",
            "helper_syscall",
            "helper_sysenter",
            "helper_read_crN",
            "helper_write_crN",
            "helper_inb",
            "helper_inw",
            "helper_inl",
            "helper_outb",
            "helper_outw",
            "helper_outl",
        )
    ),
]


def unicorn_folder() -> Path:
    """The installed unicorn package, found without importing it (that would load its shared library)."""
    spec = importlib.util.find_spec("unicorn")
    if spec is None or spec.origin is None:
        raise SystemExit(f"error: the package unicorn=={UNICORN_VERSION} is needed to build ftvm; pip install it")
    return Path(spec.origin).parent


def unicorn_library() -> Path:
    library = unicorn_folder() / "lib" / "libunicorn.a"
    if not library.is_file():
        raise SystemExit(f"error: {library} is missing; install the wheel unicorn=={UNICORN_VERSION}, not the sdist")
    if hashlib.sha256(library.read_bytes()).hexdigest() != UNICORN_SHA256:
        raise SystemExit(f"error: {library} is not that of unicorn=={UNICORN_VERSION}; pip install that version")
    return library


def declarations(header: str) -> str:
    """What cffi reads of the public header; the callbacks ``ft_on_*`` become functions defined in Python."""
    text = header.split("/* cdef begin */")[1].split("/* cdef end */")[0]
    return re.sub(r"^(?=\w[\w ]*?[ *]ft_on_\w+\()", 'extern "Python+C" ', text, flags=re.MULTILINE)


def build_id() -> str:
    """A hash over all that the core is made of. What is a block, and so every position, depends on it."""
    state = hashlib.sha256(UNICORN_SHA256.encode())
    for path in sorted([*HERE.glob("*.[ch]"), Path(__file__)]):
        state.update(hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()


def ffibuilder() -> FFI:
    ffi = FFI()
    ffi.cdef(declarations((HERE / "ftvm.h").read_text()) + "static char *const FT_BUILD_ID;")
    ffi.set_source(
        "ftvm._native",
        f'#include "ftvm.h"\nstatic char *const FT_BUILD_ID = "{build_id()}";',
        sources=sorted(f"native/{path.name}" for path in HERE.glob("*.c")),
        depends=sorted(f"native/{path.name}" for path in HERE.glob("*.h")),
        include_dirs=["native", str(unicorn_folder() / "include")],
        extra_compile_args=["-std=gnu11", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra"],
        extra_objects=[str(unicorn_library())],
        extra_link_args=[
            "-Wl,-z,muldefs",
            *(f"-Wl,--wrap={name}" for name in REPLACED),
            # Unicorn's symbols stay inside: calls among its objects need no PLT (5 % of a CPU-bound guest), and
            # the shared library of the Python package, should somebody load it too, cannot get between them.
            "-Wl,--exclude-libs,ALL",
        ],
        libraries=["m", "pthread"],
        py_limited_api=True,
    )
    return ffi


if __name__ == "__main__":
    print(f"{unicorn_library()}: the build that native/engine.c was written for")
