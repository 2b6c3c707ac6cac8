"""A boot sector: what a PC's BIOS loads to 0:7C00 and starts in real mode.

There are no disks, so all of the image is loaded, not only its first 512 bytes.
"""

from ftvm.boot.firmware import Entry
from ftvm.boot.image import Image
from ftvm.boot.job import Job

SECTOR_BYTES = 512
LOAD_ADDRESS = 0x7C00
FIRST_HARD_DISK = 0x80


def matches(image: Image) -> bool:
    """Whole sectors, the first with the signature 55 AA."""
    return len(image.data) % SECTOR_BYTES == 0 and image.data[510:512] == b"\x55\xaa"


def load(job: Job) -> Entry:
    """Raises UnusableFile for an image that conventional memory cannot hold."""
    job.layout.place(LOAD_ADDRESS, job.image.data, f"image {job.image.path}")
    return Entry(16, LOAD_ADDRESS, {"rdx": FIRST_HARD_DISK})
