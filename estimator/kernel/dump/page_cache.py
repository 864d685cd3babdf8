"""What reading a large dump leaves in the page cache of the machine on which it is read."""

from __future__ import annotations

import ctypes
import os

from estimator.collect.memory_room import meminfo_bytes

_LARGE_PART = 4
_SYS_CACHESTAT = 451  # on every architecture; Linux 6.5+
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 20
_FOLIO_BYTES = 2 << 20  # the kernel gives back whole folios alone; readahead makes large ones
_AT_ONCE_BYTES = 16 << 20


class PageCache:
    """The page cache of one file that is open for reading.

    Contents are read once. Where a dump brings more than a quarter of the memory that this machine
    has to spare into the cache, they are given back at once, or they would push out what others
    here use. A smaller one stays: it may well be read again. So does one that is there already:
    reading it brings nothing, and giving back a page takes half as long as reading it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.of_large_file = _brings_much(descriptor)
        self._start = self._stop = 0  # read, and not given back yet

    def give_back(self, start: int, stop: int) -> None:
        """The bytes from ``start`` to ``stop``, soon, if the file is large; what is mapped stays.

        In whole folios, and some MiB at once: short gaps go as well.
        """
        if not self.of_large_file or stop <= start:
            return
        if not self._stop <= start <= self._stop + _FOLIO_BYTES:  # others may read what is between
            self.give_back_rest()
        if self._start == self._stop:
            self._start = start
        self._stop = stop
        if stop - self._start >= _AT_ONCE_BYTES:
            whole = stop // _FOLIO_BYTES * _FOLIO_BYTES
            self._advise(self._start, whole)
            self._start = whole

    def give_back_rest(self) -> None:
        """What was read and is not given back yet."""
        self._advise(self._start, self._stop)
        self._start = self._stop

    def _advise(self, start: int, stop: int) -> None:
        if stop > start:
            first = start // _FOLIO_BYTES * _FOLIO_BYTES
            length = -(-stop // _FOLIO_BYTES) * _FOLIO_BYTES - first
            os.posix_fadvise(self._descriptor, first, length, os.POSIX_FADV_DONTNEED)


def _brings_much(descriptor: int) -> bool:
    available, size = meminfo_bytes("MemAvailable"), os.fstat(descriptor).st_size
    if available is None or size <= available // _LARGE_PART:
        return False
    return size * (1 - cached_share(descriptor, size)) > available // _LARGE_PART


class _Range(ctypes.Structure):  # struct cachestat_range
    _fields_ = [("off", ctypes.c_uint64), ("len", ctypes.c_uint64)]


class _Found(ctypes.Structure):  # struct cachestat, in pages
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ("cache", "dirty", "writeback", "evicted", "recently_evicted")
    ]


def cached_share(descriptor: int, size: int) -> float:
    """How much of a file of ``size`` bytes is cached, by samples; 0 where the kernel can't say."""
    call = ctypes.CDLL(None).syscall
    step = max(_SAMPLE_BYTES, size // _SAMPLES)
    cached = asked = 0
    for start in range(0, size, step):
        length = min(_SAMPLE_BYTES, size - start)
        found = _Found()
        range_ = ctypes.byref(_Range(start, length))
        if call(_SYS_CACHESTAT, descriptor, range_, ctypes.byref(found), 0):
            return 0.0
        cached += min(length, found.cache * os.sysconf("SC_PAGE_SIZE"))
        asked += length
    return cached / asked if asked else 0.0
