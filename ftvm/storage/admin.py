"""Disks that are not in service: making, looking at, dissolving them. What ``ftvm disk`` does, as functions."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from ftvm.errors import UnusableFile, UsageError
from ftvm.storage import integrity, metadata
from ftvm.storage.assemble import Plan, assemble, by_hand
from ftvm.storage.contents import OnProgress, data_chunks, differing_regions
from ftvm.storage.host import Access, Host, InUse, create_file
from ftvm.storage.integrity import BLOCK_BYTES, Sums
from ftvm.storage.metadata import Slot
from ftvm.storage.opening import Candidate, Surroundings, check_sizes, find, host_errors, new_superblock
from ftvm.storage.regions import REGION_BYTES, RegionSet, region_count, span_of
from ftvm.storage.request import SECTOR_BYTES
from ftvm.units import format_size


def create(
    paths: Sequence[Path], size_bytes: int, *, with_integrity: bool = False, surroundings: Surroundings | None = None
) -> None:
    """Make an empty disk. One path without integrity is just an image. Raises UsageError, UnusableFile, HostError."""
    around = surroundings or Surroundings()
    unit = BLOCK_BYTES if with_integrity else SECTOR_BYTES
    if size_bytes < unit or size_bytes % unit:
        raise UsageError(f"a disk of {size_bytes} bytes", f"give a multiple of {unit} bytes")
    _check_names(paths)
    for path in paths:
        for file in (path, metadata.path_of(path), integrity.path_of(path)):
            if around.host.exists(file):
                raise UnusableFile(f"{file} exists", "give the new disk another name, or remove that file")
    with host_errors("making the disk"), ExitStack() as files:
        images = [create_file(around.host, path, size_bytes) for path in paths]
        for image in images:
            files.callback(image.close)
        if len(paths) > 1 or with_integrity:
            superblock = new_superblock(paths, size_bytes, lambda path: True, with_integrity, around)
            for path, image, member in zip(paths, images, superblock.members, strict=True):
                if with_integrity:
                    integrity.create(around.host, path, size_bytes, superblock.array, member.leg).close()
                stamp = image.mtime_ns()
                metadata.create(around.host, path, superblock, member.leg, RegionSet(), stamp).close()


def decide(
    paths: Sequence[Path], right: Path, *, with_integrity: bool = False, surroundings: Surroundings | None = None
) -> None:
    """A person says: the contents of ``right`` are the disk, those of the other paths are to become copies of it.

    A path that does not exist is created. Nothing is copied here: opening the disk and bringing its legs in sync does
    that. Raises UsageError, UnusableFile, HostError.
    """
    around = surroundings or Surroundings()
    if right not in paths:
        raise UsageError(f"{right} is not one of the legs", "name it among the files, too")
    _check_names(paths)
    with ExitStack() as files, host_errors("making the mirror"):
        there = {candidate.path: candidate for candidate in find_images(around.host, paths, files)}
        if right not in there:
            raise UnusableFile(f"{right} does not exist", "name a leg that does")
        size_bytes = check_sizes(list(there.values()))
        if with_integrity and size_bytes % BLOCK_BYTES:
            raise UnusableFile(f"{right} has {size_bytes} bytes", f"checksums need a multiple of {BLOCK_BYTES} bytes")
        superblock = new_superblock(paths, size_bytes, lambda path: path == right, with_integrity, around)
        everything = RegionSet.of((0, region_count(size_bytes)))
        members = dict(zip(paths, superblock.members, strict=True))
        # The right one last: until it is done, the files do not belong together, and the command can be repeated.
        for path in sorted(paths, key=lambda path: path == right):
            member = members[path]
            if with_integrity:
                integrity.create(around.host, path, size_bytes, superblock.array, member.leg).close()
            elif around.host.exists(integrity.path_of(path)):
                around.host.remove(integrity.path_of(path))
            metadata.create(around.host, path, superblock, member.leg, everything, None).close()
            if path not in there:
                create_file(around.host, path, size_bytes).close()


def find_images(host: Host, paths: Sequence[Path], files: ExitStack) -> list[Candidate]:
    """As ``find``, but metadata may be damaged: they are about to be replaced."""
    opened = []
    for path in paths:
        try:
            image = host.open(path, Access.EXCLUSIVE)
        except FileNotFoundError:
            continue
        files.callback(image.close)
        opened.append(Candidate(path, image, None))
    return opened


def split(paths: Sequence[Path], *, surroundings: Surroundings | None = None) -> None:
    """Each of these legs becomes a disk of its own: its metadata are removed. Raises UnusableFile, HostError."""
    host = (surroundings or Surroundings()).host
    with ExitStack() as files, host_errors("splitting the mirror"):
        candidates = find(host, paths, Access.EXCLUSIVE, files)
        found = [candidate.facts() for candidate in candidates]
        for one in found:
            if one.slot is None:
                raise UnusableFile(f"{one.path} is no leg of a mirror", "it is a disk of its own already")
            for other in found:
                word = None if other.slot is None else other.slot.superblock
                if word is None or word.array != one.slot.superblock.array:
                    continue
                member = word.member(one.slot.leg)
                newer = word.age(one.slot.superblock.era) is not None
                if newer and (member is None or not member.in_sync):
                    raise UnusableFile(
                        f"{one.path} has not the whole disk: it was out of service",
                        "bring it in sync first: ftvm disk resync; or split only the leg that is",
                    )
        for candidate in candidates:
            host.remove(metadata.path_of(candidate.path))
            if host.exists(integrity.path_of(candidate.path)):
                host.remove(integrity.path_of(candidate.path))
            host.sync_folder(candidate.path)


class LegFacts(msgspec.Struct, frozen=True):
    """One path as its metadata have it. ``in_sync``: by the newest word, or by its own where the legs disagree.
    ``clean``: it was closed in good order. ``dirty_bytes`` are marked in its own bitmap."""

    path: str
    present: bool
    in_use: bool = False
    metadata: bool = False
    leg: str = ""
    generation: int = 0
    in_sync: bool = False
    clean: bool = False
    dirty_bytes: int = 0


class Status(msgspec.Struct, frozen=True):
    """``state``: plain (no mirror), no metadata, duplex, simplex (legs are missing), resync (needed at the next start),
    in use, or refused; ``reason`` says why it is refused, ``hint`` what helps."""

    state: str
    size_bytes: int
    array: str
    integrity: bool
    legs: list[LegFacts]
    reason: str = ""
    hint: str = ""


def status(paths: Sequence[Path], *, surroundings: Surroundings | None = None) -> Status:
    """What the metadata say; contents are not read, nothing is locked or written. Raises UnusableFile, HostError."""
    host = (surroundings or Surroundings()).host
    with ExitStack() as files, host_errors("looking at the disk"):
        candidates = find(host, paths, Access.PEEK, files)
        in_use = {candidate.path for candidate in candidates if _is_in_use(host, candidate.path)}
        found = {candidate.path: candidate.facts() for candidate in candidates}
        plan: Plan | None = None
        refusal: UnusableFile | None = None
        try:
            plan = assemble(paths, list(found.values()))
        except UnusableFile as error:
            refusal = error
        right = {leg.path for leg in plan.legs if leg.member.in_sync} if plan is not None else set()
        legs = []
        for path in paths:
            if path not in found:
                legs.append(LegFacts(str(path), present=False))
                continue
            slot = found[path].slot
            legs.append(
                LegFacts(
                    str(path),
                    present=True,
                    in_use=path in in_use,
                    metadata=slot is not None,
                    leg=slot.leg.hex() if slot else "",
                    generation=slot.superblock.generation if slot else 0,
                    in_sync=path in right if plan is not None else _by_its_own_word(slot),
                    clean=slot is None or slot.stamp is not None,
                    dirty_bytes=len(found[path].bitmap) * REGION_BYTES,
                )
            )
        superblock = plan.superblock if plan is not None else None
        return Status(
            state=_state(plan, refusal, bool(in_use), len(paths)),
            size_bytes=superblock.size_bytes if superblock else next(iter(found.values())).size_bytes,
            array=superblock.array.hex() if superblock else "",
            integrity=superblock is not None and superblock.integrity,
            legs=legs,
            reason=refusal.message if refusal else "",
            hint=(refusal.hint or "") if refusal else "",
        )


class CheckReport(msgspec.Struct):
    """``problems`` make the disk unfit, ``notes`` do not. ``differing``: offsets of regions of 64 KiB where legs differ
    that should be equal; ``wrong``: by leg, offsets of blocks that do not have their checksum."""

    state: str
    bytes_compared: int
    problems: list[str] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)
    differing: list[int] = msgspec.field(default_factory=list)
    wrong: dict[str, list[int]] = msgspec.field(default_factory=dict)


def check(
    paths: Sequence[Path], on_progress: OnProgress = lambda offset: None, *, surroundings: Surroundings | None = None
) -> CheckReport:
    """Read everything, change nothing. Raises UnusableFile for files that are not one disk, HostError."""
    host = (surroundings or Surroundings()).host
    with ExitStack() as files, host_errors("checking the disk"):
        candidates = find(host, paths, Access.SHARED, files)
        found = [candidate.facts() for candidate in candidates]
        plan = assemble(paths, found)
        report = CheckReport(_state(plan, None, False, len(paths)), 0)
        if plan is None:
            check_sizes(candidates)
        size_bytes = found[0].size_bytes
        dirty = plan.dirty if plan is not None else RegionSet()
        if len(candidates) > 1:
            report.bytes_compared = size_bytes
            differing = differing_regions([candidate.image for candidate in candidates], size_bytes, on_progress)
            report.differing = [
                region * REGION_BYTES
                for first, stop in differing.spans()
                for region in range(first, stop)
                if not dirty.covers((region, region + 1))
            ]
            if report.differing:
                where = f"{len(report.differing)} regions of 64 KiB, the first one at byte {report.differing[0]}"
                report.problems.append(f"the legs differ where they should be equal: {where}; {by_hand(paths)}")
        if plan is not None:
            _check_plan(plan, report)
            if plan.superblock.integrity:
                _check_sums(host, candidates, plan, report, files)
        return report


def _check_plan(plan: Plan, report: CheckReport) -> None:
    for leg in plan.legs:
        if leg.found is None:
            report.notes.append(f"{leg.path} is missing; the disk goes on without it")
        elif not leg.member.in_sync:
            report.notes.append(f"{leg.path} is to get at most {format_size(len(plan.dirty) * REGION_BYTES)} copied")
    if plan.compare and not report.problems:
        report.notes.append("the legs were changed from outside, and are equal all the same")


def _check_sums(host: Host, candidates: Sequence[Candidate], plan: Plan, report: CheckReport, files: ExitStack) -> None:
    superblock = plan.superblock
    leg_ids = {leg.path: leg.member.leg for leg in plan.legs if leg.member.in_sync}
    for candidate in candidates:
        if candidate.path not in leg_ids:
            continue
        sums_file = host.open(integrity.path_of(candidate.path), Access.SHARED)
        files.callback(sums_file.close)
        sums = Sums(sums_file, superblock.array, leg_ids[candidate.path])
        wrong = []
        for offset, size in data_chunks([candidate.image], superblock.size_bytes):
            data = memoryview(candidate.image.read(offset, size))
            expected = memoryview(sums.read(offset, size))
            if integrity.first_wrong(data, expected) is not None:
                wrong += [
                    offset + at
                    for at in range(0, size, BLOCK_BYTES)
                    if not plan.suspect.overlaps(span_of(offset + at, BLOCK_BYTES))
                    and integrity.first_wrong(data[at : at + BLOCK_BYTES], sums.read(offset + at, BLOCK_BYTES))
                    is not None
                ]
        if wrong:
            report.wrong[str(candidate.path)] = wrong
            blocks = (
                f"{len(wrong)} blocks of {candidate.path} do not have their checksum, the first one at byte {wrong[0]}"
            )
            report.problems.append(f"{blocks}; repair them: ftvm disk scrub")


def _state(plan: Plan | None, refusal: UnusableFile | None, in_use: bool, paths: int) -> str:
    if in_use:
        return "in use"
    if refusal is not None:
        return "refused"
    if plan is None:
        return "plain" if paths == 1 else "no metadata"
    if any(leg.found is not None and not leg.member.in_sync for leg in plan.legs):
        return "resync"
    return "duplex" if sum(leg.member.in_sync for leg in plan.legs) > 1 else "simplex"


def _by_its_own_word(slot: Slot | None) -> bool:
    member = None if slot is None else slot.superblock.member(slot.leg)
    return member is not None and member.in_sync


def _is_in_use(host: Host, path: Path) -> bool:
    try:
        host.open(path, Access.SHARED).close()
    except InUse:
        return True
    return False


def _check_names(paths: Sequence[Path]) -> None:
    if not 1 <= len(paths) <= metadata.MAX_LEGS:
        raise UsageError(f"a disk of {len(paths)} legs", f"give 1 to {metadata.MAX_LEGS} files")
    if len(set(paths)) != len(paths):
        raise UsageError("a file is named twice", "the legs of a mirror are different files")
