"""Machine code for tests, from GNU assembler text (AT&T syntax)."""

import subprocess
import tempfile
from functools import cache
from pathlib import Path


@cache
def assemble(text: str, origin: int = 0, bits: int = 16) -> bytes:
    """The code as it lies in memory at ``origin``; ``bits`` is the mode it starts in."""
    with tempfile.TemporaryDirectory() as folder:
        source, linked = Path(folder, "a.s"), Path(folder, "a.bin")
        source.write_text(f".code{bits}\n{text}\n")
        kind = "64" if bits == 64 else "32"
        subprocess.run(["as", f"--{kind}", "-o", f"{folder}/a.o", source], check=True)
        emulation = "elf_x86_64" if bits == 64 else "elf_i386"
        subprocess.run(
            ["ld", "-m", emulation, "--oformat", "binary", "-Ttext", hex(origin), "-o", linked, f"{folder}/a.o"],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        return linked.read_bytes()
