"""Comparing whole images: where metadata cannot vouch for them, and for ``ftvm disk check``."""

from collections.abc import Callable, Iterator, Sequence

from ftvm.storage.host import File
from ftvm.storage.regions import REGION_BYTES, RegionSet, span_of

CHUNK_BYTES = 16 * REGION_BYTES

OnProgress = Callable[[int], None]
"""Told how far a comparison came, as an offset in bytes."""


def data_chunks(files: Sequence[File], size_bytes: int) -> Iterator[tuple[int, int]]:
    """(offset, size) of chunks in which not every file has a hole; ascending, and whole regions but for the last."""
    offset = 0
    while offset < size_bytes:
        starts = [found[0] for file in files if (found := file.next_data(offset)) is not None]
        if not starts:
            return
        offset = max(offset, min(starts) // REGION_BYTES * REGION_BYTES)
        size = min(CHUNK_BYTES, size_bytes - offset)
        if size > 0:
            yield offset, size
        offset += CHUNK_BYTES


def differing_regions(
    files: Sequence[File], size_bytes: int, on_progress: OnProgress = lambda offset: None
) -> RegionSet:
    """Regions in which the files are not all equal. Raises OSError."""
    found = RegionSet()
    for offset, size in data_chunks(files, size_bytes):
        first, *others = (bytes(file.read(offset, size)) for file in files)
        for at in range(0, size, REGION_BYTES) if any(other != first for other in others) else ():
            if any(other[at : at + REGION_BYTES] != first[at : at + REGION_BYTES] for other in others):
                found.add(span_of(offset + at, min(REGION_BYTES, size - at)))
        on_progress(offset + size)
    return found
