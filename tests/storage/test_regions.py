"""Sets of regions behave as sets, across the borders of bitmap sectors too."""

from hypothesis import given
from hypothesis import strategies as st

from ftvm.storage.regions import REGION_BYTES, SECTOR_REGIONS, RegionSet, Span, region_count, span_of

TOP = 3 * SECTOR_REGIONS
edge = st.one_of(st.integers(0, TOP), st.integers(SECTOR_REGIONS - 3, SECTOR_REGIONS + 3))
span = st.tuples(edge, edge).map(lambda ends: (min(ends), max(ends)))


def members(regions: RegionSet) -> set[int]:
    return {region for first, stop in regions.spans() for region in range(first, stop)}


@given(st.lists(st.tuples(st.booleans(), span), max_size=8), span)
def test_adding_and_removing_spans_is_that_of_a_set(changes: list[tuple[bool, Span]], asked: Span) -> None:
    regions, model = RegionSet(), set[int]()
    for added, changed in changes:
        if added:
            regions.add(changed)
            model |= set(range(*changed))
        else:
            regions.remove(changed)
            model -= set(range(*changed))
    assert members(regions) == model
    assert len(regions) == len(model)
    assert bool(regions) == bool(model)
    assert regions.covers(asked) == (set(range(*asked)) <= model)
    assert regions.overlaps(asked) == bool(set(range(*asked)) & model)
    assert regions == RegionSet.of(*regions.spans())


@given(st.lists(span, max_size=4), st.lists(span, max_size=4))
def test_union_and_intersection_leave_their_operands_alone(one: list[Span], other: list[Span]) -> None:
    first, second = RegionSet.of(*one), RegionSet.of(*other)
    before = members(first), members(second)
    assert members(first | second) == before[0] | before[1]
    assert members(first & second) == before[0] & before[1]
    assert (members(first), members(second)) == before


def test_the_first_span_is_the_lowest_and_no_longer_than_asked() -> None:
    regions = RegionSet.of((SECTOR_REGIONS - 2, SECTOR_REGIONS + 5), (7, 9))
    assert regions.first_span() == (7, 9)
    regions.remove((7, 9))
    assert regions.first_span() == (SECTOR_REGIONS - 2, SECTOR_REGIONS)
    regions.remove((0, SECTOR_REGIONS))
    assert regions.first_span(3) == (SECTOR_REGIONS, SECTOR_REGIONS + 3)
    assert RegionSet().first_span() is None


def test_bytes_touch_every_region_they_are_in() -> None:
    assert span_of(0, 1) == (0, 1)
    assert span_of(REGION_BYTES - 1, 2) == (0, 2)
    assert span_of(REGION_BYTES, REGION_BYTES) == (1, 2)
    assert region_count(REGION_BYTES + 512) == 2
