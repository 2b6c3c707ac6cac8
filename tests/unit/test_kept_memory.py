"""States of the verified image that are kept: each is what the image was, in any order, and costs only what differs."""

import gc

import hypothesis
import hypothesis.strategies as st

from ftvm.monitor.image import KeptMemory, VerifiedImage
from ftvm.units import MIB, PAGE_BYTES

RAM_BYTES = 2 * MIB
PAGES = RAM_BYTES // PAGE_BYTES
TABLE_BYTES = 4 * PAGES


def stores() -> st.SearchStrategy[tuple[str, int, int]]:
    return st.tuples(st.just("store"), st.integers(0, 7), st.integers(0, 3))


steps = st.lists(
    stores()
    | st.tuples(st.just("keep"), st.just(0), st.just(0))
    | st.tuples(st.sampled_from(["back", "drop"]), st.integers(0, 7), st.just(0)),
    max_size=40,
)


@hypothesis.given(steps)
def test_every_kept_state_comes_back_exactly(steps: list[tuple[str, int, int]]) -> None:
    image = VerifiedImage(RAM_BYTES, threads=1)
    kept: list[tuple[KeptMemory, bytes]] = []
    for action, number, value in steps:
        before = image.ram[:]
        match action:
            case "store":
                image.put_pages(number, bytes([value]) * PAGE_BYTES)
            case "keep":
                kept.append((image.keep(), before))
            case "back" if kept:
                memory, content = kept[number % len(kept)]
                listed = set(image.put_back(memory, []))
                assert image.ram[:] == content
                differing = {page for page in range(8) if content[page * PAGE_BYTES] != before[page * PAGE_BYTES]}
                assert differing <= listed
            case "drop" if kept:
                del kept[number % len(kept)]
        assert all(image.holds(memory) == (image.ram[:] == content) for memory, content in kept)
    for memory, content in kept:
        image.put_back(memory, [])
        assert image.ram[:] == content
    image.close()


def test_pages_that_did_not_change_are_shared_and_zeros_cost_nothing() -> None:
    image = VerifiedImage(RAM_BYTES, threads=1)
    image.put_pages(0, b"\1" * 10 * PAGE_BYTES)
    first = image.keep()
    one = image.kept_bytes()
    assert one == 10 * PAGE_BYTES + 2 * TABLE_BYTES
    image.put_pages(0, b"\2" * PAGE_BYTES)
    image.put_pages(1, bytes(PAGE_BYTES))
    image.put_pages(2, b"\1" * PAGE_BYTES)
    second = image.keep()
    assert image.kept_bytes() == one + PAGE_BYTES + TABLE_BYTES
    assert list(image.put_back(first, [])) == [0, 1]
    assert list(image.put_back(second, [500, 1])) == [0, 1, 500]
    del first
    gc.collect()
    assert image.kept_bytes() == one - PAGE_BYTES, "one page has a new value, another one none any more"
    image.close()


def test_a_kept_state_may_outlive_its_image() -> None:
    image = VerifiedImage(RAM_BYTES, threads=1)
    memory = image.keep()
    image.close()
    del memory
    gc.collect()
