"""Names of addresses, from files that may be damaged."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftvm.debug import symbols
from ftvm.debug.symbols import Symbols
from ftvm.errors import UnusableFile, UsageError
from ftvm.guests import catalogue

MAP = """\
0000000000100000 T _start
0000000000100010 t helper.part.0
0000000000200000 D table
0000000000200000 d alias
ffffffff81000000 T _text
ffffffffc0000000 t init_module\t[virtio]
"""


@pytest.fixture
def loaded(tmp_path: Path) -> Symbols:
    (tmp_path / "System.map").write_text(MAP)
    return Symbols.load(tmp_path / "System.map")


def test_a_map_file_gives_addresses_by_name(loaded: Symbols) -> None:
    assert loaded.address("_start") == 0x100000
    assert loaded.address("init_module") == 0xFFFFFFFFC0000000
    assert "helper.part.0" in loaded
    assert len(loaded) == 6


def test_an_address_is_called_after_the_symbol_before_it(loaded: Symbols) -> None:
    assert loaded.describe(0x100000) == "_start"
    assert loaded.describe(0x10000F) == "_start+0xf"
    assert loaded.describe(0x100011) == "helper.part.0+0x1"
    assert loaded.describe(0x200000) == "table", "the first name of an address counts"
    assert loaded.describe(0xFFFFF) == ""
    assert loaded.describe(0x50000000) == "", "far from everything"


def test_a_name_that_is_not_there_says_what_may_be_meant(loaded: Symbols) -> None:
    with pytest.raises(UsageError) as error:
        loaded.address("_strat")
    assert error.value.hint == "do you mean _start?"
    with pytest.raises(UsageError, match="no symbol"):
        Symbols().address("x")


def test_search_takes_patterns_and_parts(loaded: Symbols) -> None:
    assert list(loaded.search("_*t")) == [(0x100000, "_start"), (0xFFFFFFFF81000000, "_text")]
    assert list(loaded.search("helper")) == [(0x100010, "helper.part.0")]
    assert list(loaded.search("nothing")) == []


def test_a_test_kernel_has_its_functions() -> None:
    guest = catalogue.find("workload")
    assert guest is not None
    found = Symbols(symbols.of_image(guest.path))
    assert found.describe(found.address("main")) == "main"
    assert found.describe(found.address("main") + 1) == "main+0x1"


def test_an_image_that_is_no_elf_has_none(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"MZ" + bytes(600))
    assert symbols.of_image(tmp_path / "image") == {}
    assert symbols.of_image(tmp_path / "missing") == {}


@pytest.mark.parametrize("text", ["hello\n", "0000 T\n", "zz T name\n", "1 T a\nbroken line\n"])
def test_a_file_of_something_else_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "map").write_text(text)
    with pytest.raises(UnusableFile, match="line"):
        Symbols.load(tmp_path / "map")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="cannot be read"):
        Symbols.load(tmp_path / "missing")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode), st.booleans())
def test_no_file_upsets_it(tmp_path: Path, data: bytes, elf: bool) -> None:
    (tmp_path / "any").write_bytes((b"\x7fELF" if elf else b"") + data)
    with contextlib.suppress(UnusableFile):
        Symbols.load(tmp_path / "any")
    symbols.of_image(tmp_path / "any")
