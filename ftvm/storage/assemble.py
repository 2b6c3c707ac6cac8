"""The rules by which files that lie side by side become one disk, or are refused. Pure: facts in, plan out.

Nothing is guessed. Either the metadata prove which legs are right, or the plan is a refusal that names the command
with which a person decides. docs/mirror.md has the rules as a table, with their reasons.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from ftvm.errors import UnusableFile
from ftvm.storage.metadata import Member, Slot, Superblock
from ftvm.storage.regions import RegionSet, region_count


class Found(msgspec.Struct, frozen=True):
    """One path as it is on the host. ``slot`` is None for a file without metadata."""

    path: Path
    size_bytes: int
    mtime_ns: int
    slot: Slot | None
    bitmap: RegionSet


class PlannedLeg(msgspec.Struct, frozen=True):
    """``found`` is None for one that is not there. ``path`` is where it is, or belongs."""

    member: Member
    path: Path
    found: Found | None


class Plan(msgspec.Struct, frozen=True):
    """How the disk is to be put together.

    Members that are ``in_sync`` are right everywhere. The others get ``dirty`` regions copied. ``superblock`` has the
    members as they are to be from now on, in the order of ``legs``; its era is still the old one.
    ``suspect``: regions whose checksums are no evidence (a crash, or a change from outside). ``compare``: legs in sync
    were changed from outside, so their contents must be found equal before anything else.
    """

    superblock: Superblock
    legs: tuple[PlannedLeg, ...]
    dirty: RegionSet
    suspect: RegionSet
    compare: bool


def by_hand(paths: Sequence[Path]) -> str:
    """The command with which a person says which leg is right."""
    files = " ".join(map(str, paths))
    return f"decide which one is right, and copy it over the others: ftvm disk resync --from RIGHT {files}"


def assemble(paths: Sequence[Path], found: Sequence[Found]) -> Plan | None:
    """``found`` has those of ``paths`` that exist, in their order. None when no file has metadata.

    Raises UnusableFile.
    """
    known = [one for one in found if one.slot is not None]
    if not known:
        return None
    _refuse_strangers(paths, found, known)
    authority = _authority(paths, known)
    superblock = authority.superblock

    everything = RegionSet.of((0, region_count(superblock.size_bytes)))
    dirty = RegionSet()
    suspect = RegionSet()
    for one in known:
        dirty.update(one.bitmap)

    in_sync: list[Found] = []
    for one in known:
        member = superblock.member(_slot(one).leg)
        if member is None:
            raise UnusableFile(f"{one.path} was a leg of this disk, and was replaced", by_hand(paths))
        if member.in_sync:
            if _older(superblock, one, superblock.confirmed):
                raise UnusableFile(
                    f"{one.path} is an old copy: its metadata are older than those of {_names(known, one)}",
                    by_hand(paths),
                )
            in_sync.append(one)
        elif _changed(one):
            raise UnusableFile(
                f"{one.path} left the mirror, and was changed from outside since: going on would drop that change",
                by_hand(paths),
            )
        elif _older(superblock, one, member.since):
            dirty = everything

    legs = _place(paths, known, superblock)
    missing = [leg for leg in legs if leg.found is None and leg.member.in_sync]
    if missing:
        left = [one.path for one in in_sync]
        files = " ".join(str(leg.path) for leg in legs)
        hint = (
            f"bring it back, or replace it: ftvm disk resync --from {left[0]} {files}; or make do without:"
            f" ftvm disk split {left[0]}"
            if left
            else "bring it back: no other leg has the whole disk"
        )
        raise UnusableFile(f"{missing[0].path} is missing, a leg that was in sync when the disk was last used", hint)
    if not in_sync:
        raise UnusableFile(f"{known[0].path} has not the whole disk: it was being copied", by_hand(paths))

    crashed = any(_slot(one).stamp is None for one in in_sync)
    outside = any(_changed(one) for one in in_sync)
    if crashed:
        suspect = dirty.copy()
        if dirty:  # the first one's word counts; the others are copied where they may differ
            in_sync = in_sync[:1]
    if outside:
        suspect = everything
        if len(in_sync) == 1:  # its owner changed it alone, and no bitmap knows where
            dirty = everything
    members = tuple(_member_now(leg, in_sync, superblock) for leg in legs)
    return Plan(
        superblock=msgspec.structs.replace(superblock, members=members),
        legs=tuple(PlannedLeg(member, leg.path, leg.found) for member, leg in zip(members, legs, strict=True)),
        dirty=dirty if not all(member.in_sync for member in members) else RegionSet(),
        suspect=suspect if superblock.integrity else RegionSet(),
        compare=outside and len(in_sync) > 1,
    )


def _slot(found: Found) -> Slot:
    assert found.slot is not None
    return found.slot


def _refuse_strangers(paths: Sequence[Path], found: Sequence[Found], known: Sequence[Found]) -> None:
    """Files that do not belong together, by what is written in each."""
    first = known[0]
    for one in found:
        if one.slot is None:
            raise UnusableFile(f"{one.path} has no metadata, {first.path} is a leg of a mirror", by_hand(paths))
        if one.slot.superblock.array != _slot(first).superblock.array:
            raise UnusableFile(f"{first.path} and {one.path} are legs of different disks", by_hand(paths))
        size_bytes = one.slot.superblock.size_bytes
        if one.size_bytes != size_bytes:
            # Given its size back, a short one would be in sync for all that its metadata say.
            hint = (
                f"give it its size back: truncate --size {size_bytes} {one.path}"
                if one.size_bytes > size_bytes
                else f"a part of it is lost; remove it, and have another leg copied:"
                f" ftvm disk resync --from RIGHT {' '.join(map(str, paths))}"
            )
            raise UnusableFile(f"{one.path} has {one.size_bytes} bytes, its disk has {size_bytes}", hint)
    by_leg: dict[bytes, Found] = {}
    for one in known:
        other = by_leg.setdefault(_slot(one).leg, one)
        if other is not one:
            raise UnusableFile(f"{one.path} is a copy of {other.path}, metadata included", by_hand(paths))


def _authority(paths: Sequence[Path], known: Sequence[Found]) -> Slot:
    """The newest word on the disk: the one whose past has all others in it."""
    for one in known:
        superblock = _slot(one).superblock
        ages = [superblock.age(_slot(other).superblock.era) for other in known]
        if all(age is not None for age in ages):
            same = [_slot(other) for other, age in zip(known, ages, strict=True) if age == 0]
            # Of several in one era: the one that knows of the most confirmation.
            return min(same, key=lambda slot: slot.superblock.age(slot.superblock.confirmed) or 0)
    raise UnusableFile(
        f"{_names(known)} were in service apart from each other, and each may have writes that the other lacks"
        " (split brain)",
        by_hand(paths),
    )


def _older(superblock: Superblock, one: Found, than: bytes) -> bool:
    age = superblock.age(_slot(one).superblock.era)
    limit = superblock.age(than)
    return age is not None and limit is not None and age > limit


def _changed(one: Found) -> bool:
    """Whether the image was written after its leg was closed in good order."""
    stamp = _slot(one).stamp
    return stamp is not None and stamp != one.mtime_ns


def _place(paths: Sequence[Path], known: Sequence[Found], superblock: Superblock) -> list[PlannedLeg]:
    """All members: those that are there in the order of ``paths``, and the missing ones where a path is free."""
    by_leg = {_slot(one).leg: one for one in known}
    by_path = {one.path: one for one in known}
    absent = [member for member in superblock.members if member.leg not in by_leg]
    legs = []
    for path in paths:
        one = by_path.get(path)
        if one is not None:
            member = superblock.member(_slot(one).leg)
            assert member is not None
            legs.append(PlannedLeg(member, path, one))
        elif absent:
            # By its name, when a missing member has it.
            member = next((member for member in absent if member.name == path.name), absent[0])
            absent.remove(member)
            legs.append(PlannedLeg(member, path, None))
        else:
            raise UnusableFile(f"{path} does not exist, and the disk has no such leg", by_hand(paths))
    legs += [PlannedLeg(member, known[0].path.with_name(member.name), None) for member in absent]
    return legs


def _member_now(leg: PlannedLeg, in_sync: Sequence[Found], superblock: Superblock) -> Member:
    if leg.found is not None and any(leg.found is one for one in in_sync):
        return msgspec.structs.replace(leg.member, name=leg.path.name, in_sync=True)
    if leg.member.in_sync:
        return msgspec.structs.replace(leg.member, name=leg.path.name, in_sync=False, since=superblock.confirmed)
    return msgspec.structs.replace(leg.member, name=leg.path.name)


def _names(known: Sequence[Found], without: Found | None = None) -> str:
    return " and ".join(str(one.path) for one in known if one is not without)
