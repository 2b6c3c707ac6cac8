"""The voter (native/voter.c) under the verified image, and the verdict over everything that modules report."""

import mmap
import os
import random
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm._native import ffi
from ftvm.module.board import StopKind
from ftvm.module.events import ConsoleOut, encode
from ftvm.module.link import Report
from ftvm.module.registers import ARCH_BYTES, with_registers
from ftvm.monitor.compare import Difference, Divergence, compare
from ftvm.monitor.image import MAX_RUNS, BadDirtyLog, ByteRun, VerifiedImage, WrittenMemory
from ftvm.units import PAGE_BYTES

PAGES = 512
RAM_BYTES = PAGES * PAGE_BYTES
MANY = list(range(3, 300))
"""More pages than one thread does alone."""


class FakeModule:
    """RAM and a dirty log, without a module."""

    def __init__(self) -> None:
        self.ram = bytearray(RAM_BYTES)
        self.log: list[int] = []

    def write(self, offset: int, data: bytes) -> None:
        """As a store does it."""
        self.ram[offset : offset + len(data)] = data
        for page in range(offset // PAGE_BYTES, (offset + len(data) - 1) // PAGE_BYTES + 1):
            if page not in self.log:
                self.log.append(page)

    def memory(self) -> WrittenMemory:
        return WrittenMemory(ffi.from_buffer(self.ram), ffi.new("uint32_t[]", self.log or [0]), len(self.log))


def fakes(count: int) -> list[FakeModule]:
    return [FakeModule() for _ in range(count)]


def memories(modules: Sequence[FakeModule]) -> list[WrittenMemory]:
    return [module.memory() for module in modules]


@pytest.fixture(params=[1, 2, 3], ids=lambda threads: f"{threads}-threads")
def image(request: pytest.FixtureRequest) -> VerifiedImage:
    return VerifiedImage(RAM_BYTES, threads=request.param)


def report(**changes: object) -> Report:
    same = Report(StopKind.POSITION, 1000, 0, bytes(ARCH_BYTES), msgspec.msgpack.encode({}), encode([]), b"")
    return msgspec.structs.replace(same, **changes)


def test_pages_that_all_modules_wrote_alike_become_verified(image: VerifiedImage) -> None:
    modules = fakes(2)
    for module in modules:
        module.write(5 * PAGE_BYTES + 100, b"same")
    assert image.compare(memories(modules)) == (0, [])
    assert image.ram[:] == bytes(RAM_BYTES), "nothing is verified before the commit"
    image.commit(report())
    assert image.ram[:] == bytes(modules[0].ram)


def test_pages_outside_the_dirty_log_are_not_touched(image: VerifiedImage) -> None:
    modules = fakes(2)
    for module in modules:
        module.write(0, b"logged")
        module.ram[7 * PAGE_BYTES] = 1
    assert image.compare(memories(modules)) == (0, [])
    image.commit(report())
    assert image.ram[7 * PAGE_BYTES] == 0


def test_a_single_flipped_bit_is_named(image: VerifiedImage) -> None:
    modules = fakes(2)
    for module in modules:
        module.write(9 * PAGE_BYTES, bytes(range(256)) * 16)
    modules[1].ram[9 * PAGE_BYTES + 4095] ^= 0x10
    assert image.compare(memories(modules)) == (1, [ByteRun(10 * PAGE_BYTES - 1, 1, (1,))])


def test_a_page_that_only_one_module_wrote_is_compared(image: VerifiedImage) -> None:
    for writer in (0, 1):
        modules = fakes(2)
        modules[writer].write(3 * PAGE_BYTES + 8, b"\x01")
        assert image.compare(memories(modules)) == (1, [ByteRun(3 * PAGE_BYTES + 8, 1, (1,))])


def test_runs_of_bytes_are_told_apart(image: VerifiedImage) -> None:
    modules = fakes(2)
    for module in modules:
        module.write(0, bytes(2 * PAGE_BYTES))
    modules[1].ram[10:14] = b"\xff" * 4
    modules[1].ram[15] = 0xFF
    modules[1].ram[4094:4098] = b"\xff" * 4
    pages, runs = image.compare(memories(modules))
    assert pages == 2
    assert [(run.offset, run.size) for run in runs] == [(10, 4), (15, 1), (4094, 2), (4096, 2)]


def test_three_modules_each_difference_names_who_differs_from_the_first(image: VerifiedImage) -> None:
    modules = fakes(3)
    for module in modules:
        module.write(0, bytes(PAGE_BYTES))
    modules[1].ram[1] = 1
    modules[2].ram[5] = 1
    modules[0].ram[9] = 1
    assert image.compare(memories(modules))[1] == [ByteRun(1, 1, (1,)), ByteRun(5, 1, (2,)), ByteRun(9, 1, (1, 2))]


def test_the_list_of_runs_is_bounded_and_the_pages_are_all_counted(image: VerifiedImage) -> None:
    modules = fakes(2)
    for page in MANY:
        modules[0].write(page * PAGE_BYTES, b"\x01\x00\x01")
        modules[1].write(page * PAGE_BYTES, b"\x00\x00\x00")
    pages, runs = image.compare(memories(modules))
    assert (pages, len(runs)) == (len(MANY), MAX_RUNS)


def test_what_was_compared_is_what_is_committed(image: VerifiedImage) -> None:
    modules = fakes(2)
    for module in modules:
        for page in MANY:
            module.write(page * PAGE_BYTES, b"right")
    compared = bytes(modules[0].ram)
    assert image.compare(memories(modules))[0] == 0
    for module in modules:
        module.ram[:] = b"\xee" * RAM_BYTES
    image.commit(report())
    assert image.ram[:] == compared


@pytest.mark.parametrize("page", [PAGES, 0xFFFFFFFF])
def test_a_dirty_log_that_names_no_page_is_blamed_on_its_module(image: VerifiedImage, page: int) -> None:
    modules = fakes(3)
    modules[2].log = [1, page]
    with pytest.raises(BadDirtyLog) as caught:
        image.compare(memories(modules))
    assert caught.value.args == (2,)


def test_a_page_listed_twice_is_compared_once(image: VerifiedImage) -> None:
    modules = fakes(2)
    modules[0].log = [4, 4, 4]
    modules[1].log = [4]
    modules[1].ram[4 * PAGE_BYTES] = 1
    assert image.compare(memories(modules))[0] == 1


def test_no_dirty_pages_is_agreement(image: VerifiedImage) -> None:
    assert image.compare(memories(fakes(2))) == (0, [])
    image.commit(report())
    assert image.ram[:] == bytes(RAM_BYTES)


def test_comparisons_that_follow_each_other_do_not_mix(image: VerifiedImage) -> None:
    """Jobs of the helper threads that follow each other at once, each with its own result."""
    chance = random.Random(1)
    modules = fakes(2)
    for _ in range(300):
        for module in modules:
            module.log = []
        pages = chance.sample(range(PAGES), chance.randrange(40, 200))
        for page in pages:
            for module in modules:
                module.write(
                    page * PAGE_BYTES,
                    chance.randbytes(1)
                    if module is modules[0]
                    else modules[0].ram[page * PAGE_BYTES : page * PAGE_BYTES + 1],
                )
        flipped = chance.sample(pages, chance.randrange(0, 3))
        for page in flipped:
            modules[1].ram[page * PAGE_BYTES + 1] ^= 1
        assert image.compare(memories(modules))[0] == len(flipped)
        for page in flipped:
            modules[1].ram[page * PAGE_BYTES + 1] ^= 1
        assert image.compare(memories(modules))[0] == 0
        image.commit(report())
    assert image.ram[:] == bytes(modules[0].ram)


@given(
    writes=st.lists(st.tuples(st.integers(0, RAM_BYTES - 1), st.integers(0, 255)), max_size=60),
    flips=st.dictionaries(st.integers(0, 59), st.sampled_from([1, 2]), max_size=6),
)
def test_the_voter_finds_what_a_naive_comparison_finds(writes: list[tuple[int, int]], flips: dict[int, int]) -> None:
    image = VerifiedImage(RAM_BYTES, threads=2)
    modules = fakes(3)
    for offset, value in writes:
        for module in modules:
            module.write(offset, bytes([value]))
    for index, victim in flips.items():
        if index < len(writes):
            modules[victim].ram[writes[index][0]] ^= 0x80
    differing = {
        offset: tuple(m for m in (1, 2) if modules[m].ram[offset] != modules[0].ram[offset])
        for offset, _ in writes
        if len({module.ram[offset] for module in modules}) > 1
    }
    pages, runs = image.compare(memories(modules))
    found = {run.offset + i for run in runs for i in range(run.size)}
    assert found == set(differing)
    assert pages == len({offset // PAGE_BYTES for offset in differing})


def test_a_scrub_finds_a_flip_that_no_dirty_log_knows(image: VerifiedImage) -> None:
    modules = fakes(2)
    for module in modules:
        module.write(2 * PAGE_BYTES, b"text")
    image.compare(memories(modules))
    image.commit(report())
    modules[0].ram[2 * PAGE_BYTES + 1] ^= 4
    modules[1].ram[400 * PAGE_BYTES] ^= 1
    pages, runs = image.scrub(memories(modules), 0, PAGES)
    assert (pages, runs) == (2, [ByteRun(2 * PAGE_BYTES + 1, 1, (0,)), ByteRun(400 * PAGE_BYTES, 1, (1,))])


def test_a_scrub_looks_at_the_pages_it_was_given(image: VerifiedImage) -> None:
    modules = fakes(1)
    modules[0].ram[100 * PAGE_BYTES] = 1
    assert image.scrub(memories(modules), 0, 100)[0] == 0
    assert image.scrub(memories(modules), 100, 1)[0] == 1
    assert image.scrub(memories(modules), 101, 10 * PAGES)[0] == 0
    assert image.scrub(memories(modules), 5 * PAGES, 1)[0] == 0


def test_a_scrub_gives_no_memory_to_pages_that_nobody_touched(image: VerifiedImage) -> None:
    ram_fd = os.memfd_create("ram")
    os.ftruncate(ram_fd, RAM_BYTES)
    with mmap.mmap(ram_fd, RAM_BYTES) as ram, ffi.from_buffer(ram) as address:
        ram[7 * PAGE_BYTES] = 1
        before = os.stat(ram_fd).st_blocks
        assert image.scrub([WrittenMemory(address, ffi.NULL, 0)], 0, PAGES)[0] == 1
        assert os.stat(ram_fd).st_blocks == before
    os.close(ram_fd)


# The verdict


def verdict(*reports: Report) -> Divergence | None:
    return compare(VerifiedImage(RAM_BYTES, threads=1), reports, memories(fakes(len(reports))), range(len(reports)))


def divergence(*reports: Report) -> Divergence:
    found = verdict(*reports)
    assert found is not None
    return found


def test_equal_reports_and_memory_are_agreement() -> None:
    assert verdict(report(), report()) is None
    assert verdict(report(), report(), report()) is None
    assert verdict(report()) is None


def test_a_register_that_differs_is_named_with_both_values() -> None:
    first, second = (report(arch=with_registers(bytes(ARCH_BYTES), {"r10": value})) for value in (5, 4))
    assert divergence(first, second).differences == (Difference("register", "r10", (5, 4)),)


@pytest.mark.parametrize("name", ["rip", "rflags", "cs.base", "tr.flags", "cr3", "dr7", "mtrr_mask7", "st7", "xmm15"])
def test_every_kind_of_register_is_named(name: str) -> None:
    changed = report(arch=with_registers(bytes(ARCH_BYTES), {name: 1}))
    assert [d.where for d in divergence(report(), changed).differences] == [name]


def test_any_differing_byte_of_the_architectural_state_has_a_name() -> None:
    """Reserved bytes apart, which are zero by contract."""
    nameless = 0
    for offset in range(ARCH_BYTES):
        arch = bytearray(ARCH_BYTES)
        arch[offset] = 0xFF
        nameless += {d.kind for d in divergence(report(), report(arch=bytes(arch))).differences} != {"register"}
    assert nameless == 4 * 11, "the reserved words of the ten segment registers, and the last one"


def test_a_chip_field_that_differs_is_named_by_its_path() -> None:
    states = [{"pic": {"irr": [0, irr], "imr": 255}, "uart": {"fifo": b"ab"}} for irr in (1, 3)]
    found = divergence(*(report(board=msgspec.msgpack.encode(state)) for state in states))
    assert found.differences == (Difference("chip", "pic.irr[1]", (1, 3)),)


def test_chip_state_that_is_no_state_any_more_is_shown_as_bytes() -> None:
    found = divergence(report(board=b"\xc1"), report(board=b"\x80"))
    assert found.differences == (Difference("chip", "encoding", (b"\xc1", b"\x80")),)


def test_outputs_that_differ_are_caught() -> None:
    outputs = [encode([ConsoleOut("serial", text)]) for text in (b"ok", b"oj")]
    found = divergence(*(report(outputs=output) for output in outputs))
    assert [(d.kind, d.values) for d in found.differences] == [("output", (b"ok", b"oj"))]


def test_different_stops_come_first_because_the_rest_follows_from_them() -> None:
    stopped = report(stop=StopKind.HALTED, position=990, arch=with_registers(bytes(ARCH_BYTES), {"rax": 1}))
    found = divergence(report(), stopped)
    assert [(d.kind, d.where) for d in found.differences] == [
        ("stop", "reason"),
        ("stop", "position"),
        ("register", "rax"),
    ]
    assert found.differences[0].values == ("position", "halted")


def test_a_stop_that_does_not_exist_is_a_difference_and_no_crash() -> None:
    assert divergence(report(), report(stop=4711)).differences[0].values == ("position", "unknown (4711)")


def test_memory_that_differs_is_shown_with_each_modules_bytes() -> None:
    modules = fakes(2)
    for module in modules:
        module.write(0x1234, b"\x0f")
    modules[1].ram[0x1234] ^= 0x40
    found = compare(VerifiedImage(RAM_BYTES, threads=1), [report(), report()], memories(modules), [0, 1])
    assert found is not None
    assert found.differences == (Difference("memory", "ram 0x1234", (b"\x0f", b"\x4f")),)
    assert found.pages == 1


def test_a_bad_dirty_log_is_a_divergence_with_a_culprit() -> None:
    modules = fakes(2)
    modules[1].log = [PAGES]
    found = compare(VerifiedImage(RAM_BYTES, threads=1), [report(), report()], memories(modules), [0, 2])
    assert found is not None
    assert (found.differences[0].kind, found.culprit) == ("link", 2), (
        "the number of the module, not its place in the row"
    )
