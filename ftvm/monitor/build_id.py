"""Which build of ftvm this is, as far as the guest is concerned: what is stored at a position means something only to
the same blocks and the same chips.
"""

import functools
from pathlib import Path

import xxhash

import ftvm
from ftvm._native import ffi, lib

_ROOT = Path(ftvm.__file__).parent
_ALSO = ("memory_map.py", "platform_ports.py", "units.py")
"""What a module is made of, beside its own room."""


@functools.cache
def build_id() -> str:
    """32 hexadecimal digits: a hash over the native core's sources, Unicorn, and the Python of a module."""
    state = xxhash.xxh3_128(ffi.string(lib.FT_BUILD_ID))
    for path in sorted([*(_ROOT / "module").rglob("*.py"), *(_ROOT / name for name in _ALSO)]):
        state.update(path.relative_to(_ROOT).as_posix().encode() + b"\0")
        state.update(path.read_bytes() + b"\0")
    return str(state.hexdigest())
