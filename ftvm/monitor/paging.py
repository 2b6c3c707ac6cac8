"""Linear addresses of the guest, in verified memory."""

from ftvm.module.paging import LinearMemory as LinearMemory
