"""Several files with pieces of raw memory as one physical memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from drgn import Program

from estimator.arrays import Bytes, Mask, Words
from estimator.kernel.dump.file import DumpFile
from estimator.kernel.memory import Digest, Memory
from estimator.kernel.memory.elf import MappedElf
from estimator.snapshot.flags import Unknown


class MappedFiles(Memory):
    """Each file mapped; each address is asked of the one that has it."""

    piece_pages = MappedElf.piece_pages

    def __init__(self, prog: Program, files: Sequence[DumpFile]) -> None:
        super().__init__(prog)
        self._files = [MappedElf(prog, file) for file in files]

    def frames(self, pfns: Words) -> tuple[Bytes, Bytes]:
        """See ``Memory.frames``; the order of ``pfns`` does not matter."""
        data = np.empty((len(pfns), self.page_bytes), np.uint8)
        unknown = np.full(len(pfns), Unknown.UNREADABLE, np.uint8)
        for file, rows in self._divide(pfns << np.uint64(self.page_shift)):
            data[rows], unknown[rows] = file.frames(pfns[rows])
        return data, unknown

    def digests(self, pfns: Words, digest: Digest) -> tuple[Words, Bytes]:
        """See ``Memory.digests``; it gets the frames of one file after those of another."""
        found = np.zeros(len(pfns), np.uint64)
        unknown = np.full(len(pfns), Unknown.UNREADABLE, np.uint8)
        for file, rows in self._divide(pfns << np.uint64(self.page_shift)):
            found[rows], unknown[rows] = file.digests(pfns[rows], digest)
        return found, unknown

    def unknown(self, pfns: Words) -> Bytes:
        """See ``Memory.unknown``."""
        unknown = np.full(len(pfns), Unknown.UNREADABLE, np.uint8)
        for file, rows in self._divide(pfns << np.uint64(self.page_shift)):
            unknown[rows] = file.unknown(pfns[rows])
        return unknown

    def structs(self, addresses: Words, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], Mask]:
        """See ``Memory.structs``; through the direct map, without a page-table walk each."""
        found = np.zeros(len(addresses), [(name, dtype[name]) for name in dtype.names or ()])
        ok = np.zeros(len(addresses), np.bool_)
        direct = np.zeros(len(addresses), np.bool_)
        for file, rows in self._divide(self.physical(addresses)):
            found[rows], ok[rows] = file.structs(addresses[rows], dtype)
            direct[rows] = True
        found[~direct], ok[~direct] = super().structs(addresses[~direct], dtype)
        return found, ok

    def words(self, physical: Words) -> tuple[Words, Mask]:
        """See ``Memory.words``."""
        found, ok = np.zeros(len(physical), np.uint64), np.zeros(len(physical), np.bool_)
        for file, rows in self._divide(physical):
            found[rows], ok[rows] = file.words(physical[rows])
        return found, ok

    def close(self) -> None:
        """See ``Memory.close``."""
        for file in self._files:
            file.close()

    def _divide(self, physical: Words) -> Iterator[tuple[MappedElf, npt.NDArray[np.int64]]]:
        """The files, each with the rows of the addresses that it has."""
        for file in self._files:
            rows = np.flatnonzero(file.holds(physical))
            if len(rows):
                yield file, rows
