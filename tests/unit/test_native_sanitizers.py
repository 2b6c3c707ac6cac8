"""What has threads in the native core, or reads what guests or faults may have made of it, under sanitizers."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "parts", "sanitizers"),
    [
        *((part, [part], sanitizers) for part in ("voter", "legs") for sanitizers in ("thread", "address,undefined")),
        ("lapic", ["lapic"], "address,undefined"),
        ("hostile", ["virtqueue", "packed"], "address,undefined"),
    ],
)
def test_it_is_clean_under(name: str, parts: list[str], sanitizers: str, tmp_path: Path) -> None:
    program = tmp_path / "stress"
    sources = [str(Path(__file__).with_name(f"{name}_stress.c")), *(str(ROOT / "native" / f"{p}.c") for p in parts)]
    flags = ["-std=gnu11", "-g", "-O1", f"-fsanitize={sanitizers}", "-fno-sanitize-recover", f"-I{ROOT / 'native'}"]
    subprocess.run(["gcc", *flags, *sources, "-o", str(program), "-lpthread"], check=True)
    result = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "SUCCESS\n"), result.stdout + result.stderr
