"""Physical memory in bulk: frames by PFN, structs by address, thousands in one call.

Whatever can't be read is reported as such; it never comes back as zeroes.
"""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Program
from drgn.helpers.linux.mm import phys_to_virt

from estimator.facts import Unknown
from estimator.kernel.dumpfile import DumpFile

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
_RUN_PAGES = 256  # drgn copies what it reads: 1 MiB at a time keeps the copy in the cache

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]


class Memory:
    """Reads through drgn; works for every target."""

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self.direct_map = int(phys_to_virt(prog, 0).value_())

    def frames(self, pfns: Words) -> tuple[Bytes, Bytes]:
        """The contents of the frames ``pfns``, u8 (n, 4096), and why not: ``Unknown``, u8 (n,).

        Fast where ``pfns`` has long ascending runs. Rows of unknown frames are undefined.
        """
        data = np.empty((len(pfns), PAGE_SIZE), np.uint8)
        unknown = np.zeros(len(pfns), np.uint8)
        for start, stop in _runs(pfns):
            self._read_run(int(pfns[start]), data[start:stop], unknown[start:stop])
        return data, unknown

    def contents(self, pfns: Words) -> tuple[Iterable[Bytes], Bytes]:
        """The contents of the frames ``pfns``, each u8 (4096,), and why not: see ``frames``."""
        return self.frames(pfns)

    def structs(self, addresses: Words, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], Mask]:
        """The structs at the kernel addresses ``addresses``, (n,) of ``dtype``; which were read.

        Structs that could not be read are zero-filled and False in the mask.
        """
        size = dtype.itemsize
        data = np.zeros((len(addresses), size), np.uint8)
        ok = np.ones(len(addresses), np.bool_)
        for row, address in enumerate(addresses.tolist()):
            try:
                data[row] = np.frombuffer(self.prog.read(address, size), np.uint8)
            except (FaultError, OSError):
                ok[row] = False
        return data.view(dtype)[:, 0], ok

    def virtual_run(self, address: int, data: Bytes) -> bool:
        """Fill ``data`` from the kernel address ``address`` on; False if that failed."""
        try:
            data[:] = np.frombuffer(self.prog.read(address, data.size), np.uint8)
        except (FaultError, OSError):
            return False
        return True

    def _read_run(self, pfn: int, data: Bytes, unknown: Bytes) -> None:
        """Read a run of frames; where it fails, halve it until the frames at fault are found."""
        try:
            raw = self.prog.read(pfn << PAGE_SHIFT, data.size, True)
        except (FaultError, OSError) as error:
            if len(data) == 1:
                excluded = "Excluded page" in str(error)
                unknown[0] = Unknown.EXCLUDED if excluded else Unknown.UNREADABLE
                return
            half = len(data) // 2
            self._read_run(pfn, data[:half], unknown[:half])
            self._read_run(pfn + half, data[half:], unknown[half:])
        else:
            data[:] = np.frombuffer(raw, np.uint8).reshape(data.shape)


class MappedElf(Memory):
    """An ELF dump, mapped: no copy through drgn, and gaps in the file are known as gaps."""

    def __init__(self, prog: Program, dump: DumpFile) -> None:
        super().__init__(prog)
        self._file = _map(dump.path)
        loads = dump.loads[dump.loads["memsz"] > 0]
        self._paddr = loads["paddr"].astype(np.uint64)
        self._offset = loads["offset"].astype(np.uint64)
        self._memory_end = self._paddr + loads["memsz"].astype(np.uint64)
        self._file_end = self._paddr + loads["filesz"].astype(np.uint64)
        in_file = np.maximum(dump.size_bytes - loads["offset"].astype(np.int64), 0)
        self._readable_end = np.minimum(self._file_end, self._paddr + in_file.astype(np.uint64))

    def frames(self, pfns: Words) -> tuple[Bytes, Bytes]:
        """See ``Memory.frames``; the order of ``pfns`` does not matter."""
        offsets, unknown = self._locate(pfns << np.uint64(PAGE_SHIFT), PAGE_SIZE)
        return self._gather(offsets, PAGE_SIZE), unknown

    def contents(self, pfns: Words) -> tuple[Iterable[Bytes], Bytes]:
        """See ``Memory.contents``: views of the mapped file, nothing is copied."""
        offsets, unknown = self._locate(pfns << np.uint64(PAGE_SHIFT), PAGE_SIZE)
        return map(self._windows(PAGE_SIZE).__getitem__, offsets.tolist()), unknown

    def structs(self, addresses: Words, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], Mask]:
        """See ``Memory.structs``; through the direct map, without a page-table walk each."""
        size = dtype.itemsize
        offsets, unknown = self._locate(addresses - np.uint64(self.direct_map), size)
        data = self._gather(offsets, size)
        found = data.view(dtype)[:, 0]
        ok = unknown == Unknown.HASHED
        if not ok.all():  # not in the direct map: vmalloc space or the kernel image
            found[~ok], ok[~ok] = super().structs(addresses[~ok], dtype)
        return found, ok

    def _locate(self, physical: Words, size: int) -> tuple[Words, Bytes]:
        """File offsets of ``size`` bytes at the addresses ``physical``, and ``Unknown`` codes."""
        load = np.searchsorted(self._paddr, physical, side="right") - 1
        outside = load < 0
        load[outside] = 0
        end = physical + np.uint64(size)
        unknown = np.zeros(len(physical), np.uint8)
        unknown[end > self._readable_end[load]] = Unknown.TRUNCATED
        unknown[end > self._file_end[load]] = Unknown.EXCLUDED
        outside |= end > self._memory_end[load]
        unknown[outside] = Unknown.UNREADABLE
        offsets = self._offset[load] + (physical - self._paddr[load])
        offsets[unknown != 0] = 0
        return offsets, unknown

    def _gather(self, offsets: Words, size: int) -> Bytes:
        found: Bytes = self._windows(size)[offsets.astype(np.int64)]
        return found

    def _windows(self, size: int) -> Bytes:
        """The file as overlapping rows: row n is the ``size`` bytes at offset n."""
        windows = max(self._file.size - size + 1, 0)
        return np.lib.stride_tricks.as_strided(self._file, (windows, size), (1, 1), writeable=False)


def _map(path: Path) -> Bytes:
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8)


def _runs(pfns: Words) -> Iterator[tuple[int, int]]:
    """Rows [start, stop) of consecutive PFNs, at most _RUN_PAGES long."""
    breaks = np.flatnonzero(pfns[1:] != pfns[:-1] + np.uint64(1)) + 1
    bounds = [0, *breaks.tolist(), len(pfns)]
    for start, stop in itertools.pairwise(bounds):
        for begin in range(start, stop, _RUN_PAGES):
            yield begin, min(begin + _RUN_PAGES, stop)
