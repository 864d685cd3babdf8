"""Physical memory in bulk: frames by PFN, structs by address, thousands in one call.

Whatever can't be read is reported as such; it never comes back as zeroes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from drgn import Architecture, BadDataError, FaultError, Program
from drgn.helpers.linux.mm import phys_to_virt

from estimator.arrays import Bytes, Ints, Mask, Words
from estimator.collect.limits import is_own_limit
from estimator.collect.page_room import PageRoom
from estimator.kernel.arch import aarch64
from estimator.kernel.memory.intervals import runs
from estimator.kernel.vmcoreinfo import page_shift
from estimator.snapshot.flags import Unknown

RUN_PAGES = 256  # what is read is copied: 1 MiB at a time keeps the copy in the cache
BRIDGED_PAGES = 3  # as fast to read as to leave out
_NEAR_BYTES = 1 << 16  # structs that lie together are read together
NEAR_MEMBER = 64  # bytes from one member to the next: a cache line

_KERNEL_HALF = np.uint64(1 << 55)  # of an address of arm64, below the tag
_NO_TAG = np.uint64(0xFF << 56)

READ_ERRORS = (FaultError, BadDataError, OSError, OverflowError)
"""What a failed read raises: OSError from a running kernel, OverflowError for a wild pointer."""

Content = Bytes | bytes | memoryview
Digest = Callable[[Iterable[Content]], Iterable[int]]
"""Makes a number of each content of a frame; it must take one after the other, and keep none."""


def _direct_map(prog: Program) -> int:
    """Where physical memory is mapped from 0 on; raises FaultError if that is not to be found.

    drgn asks variables for it on arm64, which BTF has no types of.
    """
    if prog.platform is not None and prog.platform.arch == Architecture.AARCH64:
        return aarch64.direct_map(prog)
    try:
        return int(phys_to_virt(prog, 0).value_())
    except Exception as error:  # drgn has no narrower class for a table that leads nowhere
        if type(error) is not Exception:
            raise
        raise FaultError(str(error), 0) from error


class Memory:
    """Reads through drgn; works for every target.

    ``moving``: what is read may change meanwhile. ``piece_pages``: how many frames to read and hash
    in one go. ``page_shift``, ``page_bytes``: the size of a page of the target. ``knows_gaps``:
    ``unknown`` says of every frame whether it is there; otherwise only reading it does.
    """

    moving = False
    knows_gaps = False
    piece_pages = 4096
    page_shift: int
    page_bytes: int
    _tagged = False

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self.page_shift = page_shift(prog)
        self.page_bytes = 1 << self.page_shift
        self.direct_map = _direct_map(prog)
        self._tagged = prog.platform is not None and prog.platform.arch == Architecture.AARCH64

    def frames(self, pfns: Words) -> tuple[Bytes, Bytes]:
        """What is in the frames ``pfns``, u8 (n, page_bytes), and ``Unknown`` codes, u8 (n,).

        Fast where ``pfns`` has long ascending runs. Ints of unknown frames are undefined.
        """
        data = np.empty((len(pfns), self.page_bytes), np.uint8)
        unknown = np.zeros(len(pfns), np.uint8)
        for start, stop in runs(pfns, RUN_PAGES):
            self._read_run(int(pfns[start]), data[start:stop], unknown[start:stop])
        return data, unknown

    def batches(self, pfns: Words, unknown: Bytes, room: PageRoom) -> Iterator[Ints]:
        """Fill the first pages of ``room`` with those of the frames ``pfns`` that can be read.

        Yields which they are, i64 (m,), and fills it anew. The ``Unknown`` codes of all are written
        to ``unknown``, u8 (n,).
        """
        for first in range(0, len(pfns), len(room)):
            data, codes = self.frames(pfns[first : first + len(room)])
            unknown[first : first + len(room)] = codes
            known = np.flatnonzero(codes == Unknown.HASHED)
            np.take(data, known, axis=0, out=room.data[: len(known)], mode="clip")
            yield first + known

    def unknown(self, pfns: Words) -> Bytes:
        """Why the frames ``pfns`` can't be read as far as known beforehand, u8 (n,)."""
        return np.zeros(len(pfns), np.uint8)

    def digests(self, pfns: Words, digest: Digest) -> tuple[Words, Bytes]:
        """``digest`` of the frames ``pfns``, u64 (n,), and ``Unknown`` codes, u8 (n,).

        It gets the bytes of each frame that can be read, in the order of ``pfns``. The value
        of an unknown frame is 0 and means nothing.
        """
        unknown = np.zeros(len(pfns), np.uint8)
        pages = chain.from_iterable(self._contents(pfns, unknown))
        values = np.fromiter(digest(pages), np.uint64)
        found = np.zeros(len(pfns), np.uint64)
        found[unknown == Unknown.HASHED] = values
        return found, unknown

    def _contents(self, pfns: Words, unknown: Bytes) -> Iterator[list[memoryview]]:
        """What is in the frames ``pfns``, run by run; without those noted in ``unknown``."""
        size = self.page_bytes
        for start, stop in runs(pfns, RUN_PAGES):
            try:
                raw = self.prog.read(
                    int(pfns[start]) << self.page_shift, (stop - start) * size, True
                )
            except READ_ERRORS as error:
                if is_own_limit(error):
                    raise
                data, codes = self.frames(pfns[start:stop])
                unknown[start:stop] = codes
                yield [data[row].data for row in np.flatnonzero(codes == Unknown.HASHED).tolist()]
            else:
                run = memoryview(raw)
                yield [run[place : place + size] for place in range(0, len(run), size)]

    def untagged(self, addresses: Words) -> Words:
        """Kernel addresses without what KASAN keeps in their highest byte, on arm64."""
        if not self._tagged:
            return addresses
        return np.where(addresses & _KERNEL_HALF, addresses | _NO_TAG, addresses)

    def physical(self, addresses: Words) -> Words:
        """Of kernel addresses in the direct map, u64 (n,); of others it means nothing."""
        found: Words = self.untagged(addresses) - np.uint64(self.direct_map)
        return found

    def close(self) -> None:
        """Close what was opened beside ``prog``; nothing can be read any more."""

    def structs(self, addresses: Words, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], Mask]:
        """The structs at the kernel addresses ``addresses``, (n,) of ``dtype``; which were read.

        Bytes that belong to none of its members may be left out. Structs that could not be read are
        zero-filled and False in the mask.
        """
        size = dtype.itemsize
        addresses = self.untagged(addresses)
        data = np.zeros((len(addresses), size), np.uint8)
        ok = np.ones(len(addresses), np.bool_)
        order = np.argsort(addresses)
        for start, stop in runs(addresses[order], _NEAR_BYTES, self.page_bytes):
            rows = order[start:stop]
            place = (addresses[rows] - addresses[rows[0]]).view(np.int64)
            near = np.empty(int(place[-1]) + size, np.uint8)
            if self.virtual_run(int(addresses[rows[0]]), near):
                data[rows] = np.lib.stride_tricks.sliding_window_view(near, size)[place]
            else:
                for row in rows.tolist():
                    ok[row] = self.virtual_run(int(addresses[row]), data[row])
        return data.view(dtype)[:, 0], ok

    def words(self, physical: Words) -> tuple[Words, Mask]:
        """The aligned 64-bit words at the addresses ``physical``, u64 (n,); which could be read."""
        data, ok = self.within_frames(physical, 8)
        return data.view(np.uint64)[:, 0], ok

    def within_frames(self, physical: Words, size: int) -> tuple[Bytes, Mask]:
        """``size`` bytes at each of the addresses ``physical``, u8 (n, size); which were read.

        None goes beyond its frame. Each frame is read once; what could not be read is zero-filled.
        """
        data, ok = np.zeros((len(physical), size), np.uint8), np.zeros(len(physical), np.bool_)
        pfns, where = np.unique(physical >> np.uint64(self.page_shift), return_inverse=True)
        offset = (physical & np.uint64(self.page_bytes - 1)).astype(np.int64)
        order = np.argsort(where, kind="stable")
        bounds = np.searchsorted(where[order], np.arange(len(pfns) + 1))
        for first in range(0, len(pfns), RUN_PAGES):
            frames, unknown = self.frames(pfns[first : first + RUN_PAGES])
            row = order[bounds[first] : bounds[first + len(frames)]]
            frame = where[row] - first
            data[row] = frames[frame[:, None], offset[row, None] + np.arange(size)]
            ok[row] = unknown[frame] == Unknown.HASHED
        data[~ok] = 0
        return data, ok

    def virtual_run(self, address: int, data: Bytes) -> bool:
        """Fill ``data`` from the kernel address ``address`` on; False if that failed."""
        try:
            data[:] = np.frombuffer(self.prog.read(address, data.size), np.uint8)
        except READ_ERRORS as error:
            if is_own_limit(error):
                raise
            return False
        return True

    def _read_run(self, pfn: int, data: Bytes, unknown: Bytes) -> None:
        """Read a run of frames; where it fails, halve it until the frames at fault are found."""
        try:
            raw = self.prog.read(pfn << self.page_shift, data.size, True)
        except READ_ERRORS as error:
            if is_own_limit(error):
                raise
            if len(data) == 1:
                excluded = "Excluded page" in str(error)
                unknown[0] = Unknown.EXCLUDED if excluded else Unknown.UNREADABLE
                return
            half = len(data) // 2
            self._read_run(pfn, data[:half], unknown[:half])
            self._read_run(pfn + half, data[half:], unknown[half:])
        else:
            data[:] = np.frombuffer(raw, np.uint8).reshape(data.shape)
