"""What reading a large dump leaves in the page cache of the machine on which it is read."""

from __future__ import annotations

import os

from estimator.collect.memory_room import meminfo_bytes

_LARGE_PART = 4


class PageCache:
    """The page cache of one file that is open for reading.

    Contents are read once. Of a dump of more than a quarter of the memory that this machine has to
    spare they are given back at once, or they would push out what others here use. A smaller one
    stays: it may well be read again.
    """

    def __init__(self, descriptor: int) -> None:
        available = meminfo_bytes("MemAvailable")
        size = os.fstat(descriptor).st_size
        self._descriptor = descriptor
        self.of_large_file = available is not None and size > available // _LARGE_PART

    def give_back(self, start: int, stop: int) -> None:
        """The bytes from ``start`` to ``stop``, if the file is large; what is mapped stays."""
        if self.of_large_file and stop > start:
            os.posix_fadvise(self._descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)
