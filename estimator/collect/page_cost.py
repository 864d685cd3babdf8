"""What this machine takes for the steps of ksmd on a page, timed in user space on cold memory.

Nothing of KSM is touched. ksmd's own steps can't be called from user space, but each has one that
does the same to the same kind of memory: ``Measured`` names it. Hashing, searching and finding tree
pages take turns, as they do in ksmd, so that each finds the caches as the others leave them.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import xxhash

from estimator.arrays import Ints
from estimator.collect.memory_room import meminfo_bytes
from estimator.errors import CannotAnswerError

_PAGE_BYTES = mmap.PAGESIZE
_HUGE_BYTES = _PAGE_BYTES // 8 * _PAGE_BYTES
_MOST_BYTES, _FEWEST_BYTES = 1 << 28, 1 << 27
"""Of memory whose pages are visited: more than the caches of a core hold."""
_TURNS, _PAGES_A_TURN = 1024, 64
_TURNS_AWAKE, _TURNS_TO_WAKE, _SLEEP_SECONDS = 16, 4, 0.02
"""Turns from one sleep to the next, which is as long as ksmd's by default; the first find caches
cold."""
_FEW_PAGES = 2
"""For these, before the clock runs, the interpreter gets into the caches again; ksmd has none."""
_CALLS = 8192
_SPLIT_PAGES = 16
_MADV_COLD, _CLOCK_MONOTONIC_COARSE = 20, 6
"""Of the kernel; Python names neither."""
_MOVE_PAGES = {"x86_64": 279, "aarch64": 239}
_NOTHING = 8
"""Bytes that are hot: what calling a function costs without its work."""


@dataclass(frozen=True)
class Measured:
    """CPU seconds in user space, on ``pages`` pages of this kernel.

    ksmd reads pages through the kernel's map of all memory, in large pages: so ``compare_seconds``
    (one comparison of first words on the way down a sorted tree of the pages) is of memory in huge
    pages, where there are any. ``hash_seconds`` (xxh64 of a page, in order of address) is of pages
    that are mapped one by one: what takes time there is where such frames lie. It finds pages
    through page tables: ``walk_seconds`` (in order of address) and ``lookup_seconds`` (on the way
    down a tree) are of pages that are mapped one by one, found by move_pages(2), which locks the
    mm, looks up the VMA and walks with folio_walk_start().
    ``equal_seconds``: a page compared with an equal one, which is hot. ``change_seconds``: a page
    is taken out of the page table, the TLB flushed and the frame freed: madvise(MADV_DONTNEED).
    ``split_seconds``: a huge page split, by madvise(MADV_COLD) of one page of it; None where the
    kernel gives none. ``wake_seconds``: what hashing, comparing and looking up take longer, in all,
    after a sleep in which others used the caches. ``tick_seconds``: from one tick of the kernel's
    timer to the next.
    """

    pages: int
    walk_seconds: float
    hash_seconds: float
    compare_seconds: float
    lookup_seconds: float
    equal_seconds: float
    change_seconds: float
    split_seconds: float | None
    wake_seconds: float
    tick_seconds: float


def measure() -> Measured:
    """Measure on up to 512 MiB of memory, at most a quarter of what is available.

    Raises CannotAnswerError where that is too little to be cold, move_pages(2) is not there, or a
    step takes no time by the clock.
    """
    size = min(_MOST_BYTES, (meminfo_bytes("MemAvailable") or 0) // 8 // _HUGE_BYTES * _HUGE_BYTES)
    if size < _FEWEST_BYTES:
        raise CannotAnswerError(
            f"{_FEWEST_BYTES >> 19} MiB are read for it, and only {size >> 19} MiB can be spared"
        )
    large, small = _Pages(size, mmap.MADV_HUGEPAGE), _Pages(size, mmap.MADV_NOHUGEPAGE)
    hashed, compared, looked_up, wake = _in_turns(large, small)
    return Measured(
        pages=small.number,
        walk_seconds=small.walk(),
        hash_seconds=hashed,
        compare_seconds=compared,
        lookup_seconds=looked_up,
        equal_seconds=large.equal(),
        change_seconds=small.change(),
        split_seconds=large.split(),
        wake_seconds=wake,
        tick_seconds=time.clock_getres(_CLOCK_MONOTONIC_COARSE),
    )


def _in_turns(large: _Pages, small: _Pages) -> tuple[float, float, float, float]:
    """Seconds to hash a page, to compare with one of the tree, to find such a one, and to wake up.

    Means: ksmd too has turns in which memory is slow, some three times slower than most on a host
    of virtual machines. The time in which a hypervisor has taken the CPU away is in no thread's.
    """
    depth = small.number.bit_length() - 1
    wanted = np.random.default_rng(1).integers(1, 1 << 63, (_TURNS, _PAGES_A_TURN), np.uint64)
    spent = np.zeros((_TURNS, 4))
    for turn, keys in enumerate(wanted):
        first = turn * _PAGES_A_TURN % small.number
        ways = small.way_down(keys, depth)
        if turn % _TURNS_AWAKE == 0:
            time.sleep(_SLEEP_SECONDS)
            small.hash([first] * _FEW_PAGES, _NOTHING)
            large.search(keys[:_FEW_PAGES])
            _find(ways[:_FEW_PAGES])
        times = [time.thread_time()]
        small.hash(range(first, first + _PAGES_A_TURN), _PAGE_BYTES)
        times.append(time.thread_time())
        large.search(keys)
        times.append(time.thread_time())
        _find(ways)
        times.append(time.thread_time())
        small.hash([first] * _PAGES_A_TURN, _NOTHING)
        times.append(time.thread_time())
        spent[turn] = np.diff(times)
    turns = spent.reshape(-1, _TURNS_AWAKE, 4)
    usual = turns[:, _TURNS_TO_WAKE:].mean(axis=(0, 1))
    compared, looked_up = (usual[1:3] / _PAGES_A_TURN).tolist()
    hashed = _beyond(turns[:, _TURNS_TO_WAKE:, 0], turns[:, _TURNS_TO_WAKE:, 3])
    waking = turns[:, :_TURNS_TO_WAKE, :3].sum(axis=(1, 2)).mean()
    wake = max(0.0, float(waking - _TURNS_TO_WAKE * usual[:3].sum()))
    return hashed, compared / depth, looked_up / depth, wake


class _Pages:
    """Pages of which each begins like no other, and a sorted order of them, as in a tree."""

    def __init__(self, size: int, advice: int) -> None:
        memory = mmap.mmap(-1, size + _HUGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(advice)
        whole = np.frombuffer(memory, np.uint8)
        whole = whole[-whole.ctypes.data % _HUGE_BYTES :][:size]
        self._words = whole.view(np.uint64).reshape(-1, _PAGE_BYTES // 8)
        self.number, self._start = len(self._words), whole.ctypes.data
        self._bytes = whole.data
        self._random = np.random.default_rng(0)
        self._words[:, 0] = self._random.integers(1, 1 << 63, self.number, np.uint64)
        self._sorted = np.argsort(self._words[:, 0])

    def hash(self, pages: Iterable[int], size: int) -> None:
        """Of each of ``pages`` the first ``size`` bytes."""
        for page in pages:
            at = page * _PAGE_BYTES
            xxhash.xxh64_intdigest(self._bytes[at : at + size])

    def search(self, keys: npt.NDArray[np.uint64]) -> None:
        """For each of ``keys`` a way down the tree."""
        np.searchsorted(self._words[:, 0], keys, sorter=self._sorted)

    def way_down(self, keys: npt.NDArray[np.uint64], depth: int) -> npt.NDArray[np.uint64]:
        """Addresses of the pages that a search for each of ``keys`` meets, key by key."""
        low, high = np.zeros(len(keys), np.int64), np.full(len(keys), self.number)
        way = np.empty((len(keys), depth), np.int64)
        for level in range(depth):
            middle = np.minimum((low + high) // 2, self.number - 1)
            way[:, level] = self._sorted[middle]
            right = self._words[way[:, level], 0] < keys
            low, high = np.where(right, middle + 1, low), np.where(right, high, middle)
        return self._addresses(way.reshape(-1))

    def walk(self) -> float:
        """Seconds to find a page, in order of address."""
        places = self._addresses(np.arange(self.number))
        return _seconds(lambda: _find(places)) / self.number

    def equal(self) -> float:
        """Seconds to compare a page with a hot one that is equal but for its first word."""
        memcmp, hot = _function("memcmp"), self._start + 8

        def compare(places: list[int], size: int) -> None:
            for place in places:
                memcmp(hot, place + 8, size)

        return self._in_turns(compare, _PAGE_BYTES - 8, _NOTHING)

    def change(self) -> float:
        """Seconds to take a page out of the page table and free it."""
        return self._in_turns(
            lambda places, size: _advise(places, mmap.MADV_DONTNEED, size), _PAGE_BYTES, 0
        )

    def split(self) -> float | None:
        """Seconds to split a huge page; None where there are none."""
        if _huge_pages(self._start) < _SPLIT_PAGES:
            return None
        places = (self._start + _PAGE_BYTES + _HUGE_BYTES * np.arange(_SPLIT_PAGES)).tolist()
        return _seconds(lambda: _advise(places, _MADV_COLD)) / _SPLIT_PAGES

    def _in_turns(self, work: Callable[[list[int], int], object], size: int, nothing: int) -> float:
        """Seconds that ``work`` takes for a page with ``size``, beyond those with ``nothing``."""
        some = self._addresses(self._random.permutation(self.number)[:_CALLS])
        spent = np.array(
            [
                (_seconds(partial(work, places, size)), _seconds(partial(work, places, nothing)))
                for places in some.reshape(-1, _PAGES_A_TURN).tolist()
            ]
        )
        return _beyond(spent[:, 0], spent[:, 1])

    def _addresses(self, pages: Ints) -> npt.NDArray[np.uint64]:
        return (self._start + pages * _PAGE_BYTES).astype(np.uint64)


def _find(addresses: npt.NDArray[np.uint64]) -> None:
    """Let the kernel find these pages of ours: on which node is each?"""
    status = np.empty(len(addresses), np.int32)
    number, places = _MOVE_PAGES.get(platform.machine()), addresses.ctypes.data
    failed = -1
    if number is not None:
        syscall = _function("syscall")
        failed = syscall(number, 0, len(addresses), places, 0, status.ctypes.data, 0)
    if failed:
        reason = os.strerror(ctypes.get_errno() if number is not None else errno.ENOSYS)
        raise CannotAnswerError(f"move_pages(2), with which pages are found: {reason}")


def _huge_pages(address: int) -> int:
    """How many huge pages the mapping of ours at ``address`` has."""
    inside = False
    with open("/proc/self/smaps") as lines:
        for line in lines:
            first = line.split(maxsplit=1)[0]
            if "-" in first:
                low, high = (int(end, 16) for end in first.split("-"))
                inside = low <= address < high
            elif inside and first == "AnonHugePages:":
                return (int(line.split()[1]) << 10) // _HUGE_BYTES
    return 0


def _advise(addresses: list[int], advice: int, size: int = _PAGE_BYTES) -> None:
    madvise = _function("madvise")
    for address in addresses:
        madvise(address, size, advice)


def _function(name: str) -> Callable[..., int]:
    """A function of libc whose arguments are long."""
    found = getattr(_LIBC, name)
    found.argtypes = (ctypes.c_long,) * {"memcmp": 3, "madvise": 3, "syscall": 7}[name]
    return found


_LIBC = ctypes.CDLL(None, use_errno=True)


def _beyond(spent: npt.NDArray[np.float64], on_nothing: npt.NDArray[np.float64]) -> float:
    """Mean seconds for a page, of turns, without what the calls themselves usually take.

    Raises CannotAnswerError where the clock tells no difference: no step takes no time.
    """
    beyond = float(spent.mean() - np.median(on_nothing)) / _PAGES_A_TURN
    if beyond <= 0:
        raise CannotAnswerError(
            "a step took no longer than a call that does nothing: this clock can't tell them apart"
        )
    return beyond


def _seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this thread for ``work``."""
    started = time.thread_time()
    work()
    return time.thread_time() - started
