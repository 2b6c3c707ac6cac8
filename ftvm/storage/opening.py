"""From paths to a disk in service: find, lock, decide by the rules of ``assemble``, and put it on record."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import msgspec

from ftvm.errors import HostError, UnusableFile, UsageError
from ftvm.storage import integrity, metadata
from ftvm.storage.array import Array, Place, StartWorker
from ftvm.storage.assemble import Found, Plan, PlannedLeg, assemble, by_hand
from ftvm.storage.contents import differing_regions
from ftvm.storage.events import Event
from ftvm.storage.host import Access, File, Host, LocalHost, create_file
from ftvm.storage.integrity import Sums
from ftvm.storage.intent import WriteIntents
from ftvm.storage.leg import Leg
from ftvm.storage.metadata import MAX_LEGS, Member, Sidecar, Superblock
from ftvm.storage.mirror import Mirror, Reopened
from ftvm.storage.regions import RegionSet, region_count
from ftvm.storage.request import SECTOR_BYTES
from ftvm.storage.volume import Volume
from ftvm.storage.worker import ThreadWorker

TIMEOUT_S = 10.0
"""How far a leg may be behind its peers."""


class Surroundings(msgspec.Struct, frozen=True):
    """Where a disk lives. Tests put others in place."""

    host: Host = msgspec.field(default_factory=LocalHost)
    start_worker: StartWorker = ThreadWorker
    sleep: Callable[[float | None], None] | None = None
    clock: Callable[[], float] = time.monotonic
    random_bytes: Callable[[int], bytes] = os.urandom


class Candidate(msgspec.Struct):
    """The open files of one path. Whoever closes ``image`` and ``sidecar`` gives their locks back."""

    path: Path
    image: File
    sidecar: Sidecar | None

    def facts(self) -> Found:
        bitmap = RegionSet() if self.sidecar is None else self.sidecar.bitmap()
        slot = None if self.sidecar is None else self.sidecar.slot
        return Found(self.path, self.image.size(), self.image.mtime_ns(), slot, bitmap)

    def close(self) -> None:
        self.image.close()
        if self.sidecar is not None:
            self.sidecar.close()


def open_disk(
    paths: Sequence[Path],
    on_event: Callable[[Event], None] = lambda event: None,
    *,
    read_only: bool = False,
    timeout_s: float = TIMEOUT_S,
    surroundings: Surroundings | None = None,
) -> Mirror:
    """The disk whose legs these files are. One file without metadata is a disk without a mirror; several without
    metadata become a mirror when their contents are equal.

    ``read_only``: nothing will be written to it. A disk without a mirror is then shared with whoever else reads it, and
    may be one that nobody can write. A mirror puts on record that it is in use all the same.

    Raises UnusableFile, with the command that helps, when the files are not one disk, or not certainly; HostError
    when the host refuses something. Legs that lack something are in service on return, but not in sync:
    ``Mirror.resync_step``.
    """
    around = surroundings or Surroundings()
    with ExitStack() as undo:
        plain = len(paths) == 1 and not around.host.exists(metadata.path_of(paths[0]))
        access = Access.SHARED if read_only and plain else Access.EXCLUSIVE
        candidates = find(around.host, paths, access, undo)
        with host_errors("opening the disk"):
            plan = assemble(paths, [candidate.facts() for candidate in candidates])
            if plan is None:
                check_sizes(candidates)
                if len(candidates) == 1 and len(paths) == 1:
                    mirror = _plain(candidates[0], on_event, timeout_s, around)
                    undo.pop_all()
                    return mirror
                _adopt(paths, candidates, around)
                plan = assemble(paths, [candidate.facts() for candidate in candidates])
                assert plan is not None
            elif plan.compare:
                _refuse_changed(paths, candidates, plan)
            mirror = _mirror(plan, candidates, on_event, timeout_s, around, undo)
        undo.pop_all()
    return mirror


def find(host: Host, paths: Sequence[Path], access: Access, undo: ExitStack) -> list[Candidate]:
    """Open those of ``paths`` that exist, in their order; ``undo`` closes them. Raises UnusableFile, UsageError."""
    if not 1 <= len(paths) <= MAX_LEGS:
        raise UsageError(f"a disk of {len(paths)} legs", f"give 1 to {MAX_LEGS} files")
    for at, path in enumerate(paths):
        same = next((other for other in paths[:at] if other == path or host.same(other, path)), None)
        if same is not None:
            raise UnusableFile(f"{path} and {same} are one file", "the legs of a mirror are different files")
    candidates = []
    for path in paths:
        candidate = _open_files(host, path, access)
        if candidate is not None:
            undo.callback(candidate.close)
            candidates.append(candidate)
    if not candidates:
        raise UnusableFile(
            f"{paths[0]} does not exist", f"make a disk: ftvm disk create {' '.join(map(str, paths))} --size 1G"
        )
    return candidates


def check_sizes(candidates: Sequence[Candidate]) -> int:
    """The one size in bytes of images without metadata. Raises UnusableFile."""
    sizes = [candidate.image.size() for candidate in candidates]
    first = candidates[0].path
    for candidate, size in zip(candidates, sizes, strict=True):
        if size == 0 or size % SECTOR_BYTES:
            whole = max(SECTOR_BYTES, -(-size // SECTOR_BYTES) * SECTOR_BYTES)
            raise UnusableFile(
                f"{candidate.path} has {size} bytes: not a disk of whole sectors of {SECTOR_BYTES} bytes",
                f"if it is a raw image: truncate --size {whole} {candidate.path}",
            )
        if size != sizes[0]:
            raise UnusableFile(
                f"{first} has {sizes[0]} bytes, {candidate.path} has {size}", "the legs of a mirror have one size"
            )
    return sizes[0]


def new_superblock(
    paths: Sequence[Path], size_bytes: int, in_sync: Callable[[Path], bool], with_integrity: bool, around: Surroundings
) -> Superblock:
    """A disk that never was before."""
    era = around.random_bytes(8)
    members = tuple(Member(around.random_bytes(16), path.name, in_sync(path), era) for path in paths)
    return Superblock(
        array=around.random_bytes(16),
        era=era,
        history=(),
        confirmed=era,
        generation=1,
        size_bytes=size_bytes,
        integrity=with_integrity,
        members=members,
    )


@contextmanager
def host_errors(doing: str) -> Iterator[None]:
    """An OSError in the block becomes a HostError that says what was being done."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise HostError(f"{doing}: {where}{error.strerror or error}") from error


def _open_files(host: Host, path: Path, access: Access) -> Candidate | None:
    """None when there is no image, whatever else there is."""
    with ExitStack() as undo:
        try:
            image = host.open(path, access)
            undo.callback(image.close)
            sidecar_path = metadata.path_of(path)
            sidecar = None
            if host.exists(sidecar_path):
                file = host.open(sidecar_path, access)
                undo.callback(file.close)
                sidecar = Sidecar(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnusableFile(
                f"{error.filename or path} cannot be opened: {error.strerror}", "a leg is a file to read and write"
            ) from None
        undo.pop_all()
        return Candidate(path, image, sidecar)


def _adopt(paths: Sequence[Path], candidates: Sequence[Candidate], around: Surroundings) -> None:
    """Make a mirror of images without metadata, when nothing is lost by it. Raises UnusableFile."""
    if len(candidates) != len(paths):
        there = {candidate.path for candidate in candidates}
        missing = next(path for path in paths if path not in there)
        source = candidates[0].path
        files = " ".join(map(str, paths))
        raise UnusableFile(
            f"{missing} does not exist, and {source} has no metadata",
            f"make a copy of it that is a leg: ftvm disk resync --from {source} {files}",
        )
    size_bytes = check_sizes(candidates)
    if differing_regions([candidate.image for candidate in candidates], size_bytes):
        names = " and ".join(map(str, paths))
        raise UnusableFile(f"{names} have no metadata, and their contents differ", by_hand(paths))
    superblock = new_superblock(paths, size_bytes, lambda path: True, False, around)
    for candidate, member in zip(candidates, superblock.members, strict=True):
        stamp = candidate.image.mtime_ns()
        candidate.sidecar = metadata.create(around.host, candidate.path, superblock, member.leg, RegionSet(), stamp)


def _refuse_changed(paths: Sequence[Path], candidates: Sequence[Candidate], plan: Plan) -> None:
    """Legs in sync were written from outside: fine when they are equal all the same. Raises UnusableFile."""
    right = [leg.path for leg in plan.legs if leg.member.in_sync]
    images = [candidate.image for candidate in candidates if candidate.path in right]
    differing = differing_regions(images, plan.superblock.size_bytes)
    if any(not plan.dirty.covers(span) for span in differing.spans()):
        names = " and ".join(map(str, right))
        raise UnusableFile(f"{names} were changed from outside, and differ now", by_hand(paths))


def _plain(candidate: Candidate, on_event: Callable[[Event], None], timeout_s: float, around: Surroundings) -> Mirror:
    """A disk without a mirror: one leg, and nothing to put on record."""
    size_bytes = candidate.image.size()
    superblock = new_superblock([candidate.path], size_bytes, lambda path: True, False, around)
    plan = Plan(
        superblock,
        (PlannedLeg(superblock.members[0], candidate.path, candidate.facts()),),
        dirty=RegionSet(),
        suspect=RegionSet(),
        compare=False,
    )
    return _mirror(plan, [candidate], on_event, timeout_s, around, ExitStack())


def _mirror(
    plan: Plan,
    candidates: Sequence[Candidate],
    on_event: Callable[[Event], None],
    timeout_s: float,
    around: Surroundings,
    undo: ExitStack,
) -> Mirror:
    old = plan.superblock
    superblock = old.next_era(around.random_bytes(8), old.members)
    regions = region_count(superblock.size_bytes)
    by_path = {candidate.path: candidate for candidate in candidates}
    sums = {}
    for path in by_path if superblock.integrity else ():
        leg_id = next(leg.member.leg for leg in plan.legs if leg.path == path)
        sums[path] = _open_sums(around.host, path, superblock, leg_id)
        undo.callback(sums[path].close)

    recorded = all(candidate.sidecar is not None for candidate in candidates)
    intents = WriteIntents(regions, RegionSet() if recorded else RegionSet.of((0, regions)))
    array = Array(
        superblock,
        [Place(index, leg.path, leg.member.leg) for index, leg in enumerate(plan.legs)],
        intents,
        timeout_s=timeout_s,
        start_worker=around.start_worker,
        clock=around.clock,
        new_era=partial(around.random_bytes, 8),
    )
    for place, planned in zip(array.places, plan.legs, strict=True):
        candidate = by_path.get(place.path)
        if planned.found is None or candidate is None:
            place.reason = "not there when the disk was opened"
            intents.lose(plan.dirty)
            continue
        place.leg = Leg(candidate.image, superblock.size_bytes, candidate.sidecar, sums.get(place.path))
        place.in_service = True
        place.in_sync = planned.member.in_sync
        if not place.in_sync:
            place.todo = plan.dirty.copy()
            place.todo_at_start = len(place.todo)
        array.start(place)
    array.announce()
    mirror = Mirror(
        Volume(array, plan.suspect.copy(), recorded=recorded),
        reopen=partial(reopen, around.host),
        on_event=on_event,
        sleep=around.sleep,
    )
    mirror.begin()
    return mirror


def reopen(host: Host, path: Path, superblock: Superblock, leg_id: bytes) -> Reopened:
    """Open the files of a leg that comes back. A file that does not exist is created.

    Raises UnusableFile for a file that is not the leg, or was changed since it left; OSError.
    """
    everything = RegionSet.of((0, region_count(superblock.size_bytes)))
    if not host.exists(path):
        return Reopened(_new_leg(host, path, superblock, leg_id, everything), everything, stranger=True)
    with ExitStack() as undo:
        candidate = _open_files(host, path, Access.EXCLUSIVE)
        if candidate is None:
            raise UnusableFile(f"{path} does not exist", "put it back in place")
        undo.callback(candidate.close)
        found = candidate.facts()
        anew = f"to have it copied in full, remove {path} and {metadata.path_of(path)}"
        if found.slot is None or candidate.sidecar is None:
            raise UnusableFile(f"{path} has no metadata: it is not the leg that left", anew)
        if found.slot.superblock.array != superblock.array or found.slot.leg != leg_id:
            raise UnusableFile(f"{path} is not the leg that left", anew)
        if found.size_bytes != superblock.size_bytes:
            raise UnusableFile(f"{path} has {found.size_bytes} bytes, the disk {superblock.size_bytes}", anew)
        age = superblock.age(found.slot.superblock.era)
        if age is None:
            raise UnusableFile(f"{path} was in service elsewhere since it left", anew)
        if found.slot.stamp is not None and found.slot.stamp != found.mtime_ns:
            raise UnusableFile(f"{path} was changed from outside since it left", anew)
        sums = _open_sums(host, path, superblock, leg_id) if superblock.integrity else None
        # It gets writes from now on: should it end in a crash, nobody must take them for somebody else's.
        candidate.sidecar.record(found.slot.superblock, None)
        undo.pop_all()
    member = superblock.member(leg_id)
    since = None if member is None else superblock.age(member.since)
    stranger = since is not None and age > since
    leg = Leg(candidate.image, superblock.size_bytes, candidate.sidecar, sums)
    return Reopened(leg, everything if stranger else found.bitmap, stranger)


def _new_leg(host: Host, path: Path, superblock: Superblock, leg_id: bytes, lacking: RegionSet) -> Leg:
    with ExitStack() as undo:
        sums = None
        if superblock.integrity:
            sums = integrity.create(host, path, superblock.size_bytes, superblock.array, leg_id)
            undo.callback(sums.close)
        # Metadata first: an image without would be taken for a disk of its own.
        sidecar = metadata.create(host, path, superblock, leg_id, lacking, None)
        undo.callback(sidecar.close)
        image = create_file(host, path, superblock.size_bytes)
        undo.pop_all()
        return Leg(image, superblock.size_bytes, sidecar, sums)


def _open_sums(host: Host, path: Path, superblock: Superblock, leg_id: bytes) -> Sums:
    file_path = integrity.path_of(path)
    try:
        return Sums(host.open(file_path, Access.EXCLUSIVE), superblock.array, leg_id)
    except FileNotFoundError:
        raise UnusableFile(
            f"{file_path}, the checksums of {path}, is missing", by_hand([path, Path("OTHER")])
        ) from None
