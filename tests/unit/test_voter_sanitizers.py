"""The voter's threads and memory under the compiler's sanitizers."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("sanitizers", ["thread", "address,undefined"])
def test_the_voter_is_clean_under(sanitizers: str, tmp_path: Path) -> None:
    program = tmp_path / "voter_stress"
    sources = [str(Path(__file__).with_name("voter_stress.c")), str(ROOT / "native" / "voter.c")]
    flags = ["-std=gnu11", "-g", "-O1", f"-fsanitize={sanitizers}", "-fno-sanitize-recover", f"-I{ROOT / 'native'}"]
    subprocess.run(["gcc", *flags, *sources, "-o", str(program), "-lpthread"], check=True)
    result = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "SUCCESS\n"), result.stderr
