"""Marks come before writes and go after syncs."""

from ftvm.storage.intent import AHEAD, GROUP, HOT_REGIONS, MAX_GROUP, SOON, WriteIntents
from ftvm.storage.regions import RegionSet

REGIONS = 4 * HOT_REGIONS


def marked(*spans: tuple[int, int]) -> WriteIntents:
    intents = WriteIntents(REGIONS, RegionSet())
    intents.want_set(RegionSet.of(*spans))
    intents.next_batch([])
    intents.batch_done()
    return intents


def test_a_mark_counts_only_when_its_batch_is_done() -> None:
    intents = WriteIntents(REGIONS, RegionSet())
    intents.want((5, 6))
    masks = intents.next_batch([])
    assert not intents.marked.covers((5, 6))
    intents.batch_done()
    assert intents.marked == RegionSet.of((0, GROUP))
    assert masks == {0: (1 << GROUP) - 1}


def test_a_stream_of_writes_is_marked_ahead_to_the_end_of_the_disk_at_most() -> None:
    intents = marked((0, GROUP))
    intents.want((GROUP, GROUP + 1))
    intents.next_batch([])
    intents.batch_done()
    assert intents.marked == RegionSet.of((0, GROUP + AHEAD * GROUP))
    end = marked((REGIONS - GROUP - 1, REGIONS - GROUP))
    end.want((REGIONS - 1, REGIONS))
    end.next_batch([])
    end.batch_done()
    assert end.marked == RegionSet.of((REGIONS - GROUP - 1, REGIONS))


def write(intents: WriteIntents, region: int) -> int:
    """How many regions are marked anew for it."""
    before = len(intents.marked)
    ticket = intents.begin((region, region + 1))
    if not intents.marked.covers((region, region + 1)):
        intents.want((region, region + 1))
        intents.next_batch([])
        intents.batch_done()
    intents.end(ticket)
    return len(intents.marked) - before


def test_groups_grow_while_a_guest_writes_here_and_there() -> None:
    intents = WriteIntents(REGIONS, RegionSet())
    places = range(MAX_GROUP, REGIONS, 2 * MAX_GROUP)
    marked = [write(intents, place) for place in places[:8]]
    assert marked == [GROUP << doubled for doubled in range(7)] + [MAX_GROUP]
    for _ in range(SOON):
        write(intents, places[0])
    assert write(intents, places[8]) == GROUP
    assert write(intents, places[9]) == 2 * GROUP


def test_only_sectors_of_the_bitmap_that_change_are_written() -> None:
    intents = marked((0, 10))
    intents.want_set(RegionSet.of((5000, 5001)))
    assert set(intents.next_batch([])) == {1}
    intents.batch_done()
    assert intents.next_batch([]) == {}


def test_marks_of_clean_regions_are_taken_back_when_there_are_many_and_no_others() -> None:
    intents = marked((0, HOT_REGIONS + 3))
    ticket = intents.begin((1, 2))
    intents.missed.add((2, 3))
    masks = intents.next_batch([RegionSet.of((4, 5))])
    assert intents.marked == RegionSet.of((1, 3), (4, 5)), "gone from the moment on at which the batch begins"
    assert masks[0] == 0b10110
    intents.batch_done()
    assert intents.marked == RegionSet.of((1, 3), (4, 5))
    intents.end(ticket)


def test_a_flush_does_not_cover_a_write_that_was_in_progress_when_it_began() -> None:
    intents = marked((0, 100))
    early, late = intents.begin((1, 2)), intents.begin((2, 3))
    intents.end(early)
    intents.flush_begins()
    intents.end(late)
    after = intents.begin((3, 4))
    intents.end(after)
    assert intents.unsynced() == RegionSet.of((1, 4))
    intents.flush_ended()
    assert intents.unsynced() == RegionSet.of((2, 4))
    assert not intents.nothing_to_flush()


def test_a_flush_that_failed_leaves_its_regions_unsynced_until_one_succeeds() -> None:
    intents = marked((0, 100))
    intents.end(intents.begin((1, 2)))
    intents.flush_begins()  # and never ends
    intents.end(intents.begin((5, 6)))
    intents.flush_begins()
    assert intents.unsynced() == RegionSet.of((1, 2), (5, 6))
    intents.flush_ended()
    assert intents.nothing_to_flush()


def test_what_a_leg_lacks_is_what_was_not_synced_when_it_left_and_all_that_came_later() -> None:
    """Linux md once lost the latter: a write to a degraded array was missed by the re-add of its other half."""
    intents = marked((0, 100))
    intents.end(intents.begin((0, 1)))
    intents.flush_begins()
    intents.flush_ended()
    in_progress = intents.begin((10, 11))
    intents.lose(RegionSet.of((20, 21)))
    intents.end(intents.begin((30, 31)))
    intents.flush_begins()
    intents.flush_ended()
    intents.end(in_progress)
    todo = intents.bring_back(RegionSet.of((40, 41)), degraded=False)
    assert todo == RegionSet.of((10, 11), (20, 21), (30, 31), (40, 41))
    assert not intents.missed


def test_what_one_of_two_lost_legs_lacks_is_kept_when_the_other_returns() -> None:
    intents = marked((0, 100))
    intents.lose(RegionSet())
    intents.end(intents.begin((1, 2)))
    assert intents.bring_back(RegionSet(), degraded=True) == RegionSet.of((1, 2))
    intents.end(intents.begin((2, 3)))
    assert intents.missed == RegionSet.of((1, 3))
