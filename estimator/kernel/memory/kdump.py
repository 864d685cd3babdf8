"""A kdump file as physical memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from drgn import FaultError, Program

from estimator.kernel.dump.kdump_headers import KdumpPages
from estimator.kernel.memory import PAGE_SHIFT, PAGE_SIZE, Bytes, Content, Memory
from estimator.kernel.memory.intervals import Words
from estimator.snapshot.flags import Unknown


class Kdump(Memory):
    """A kdump file: what can't be read is known beforehand, what can is decompressed once.

    ``files``: one, or all of a split dump by PFN.
    """

    piece_pages = 16_384

    def __init__(self, prog: Program, files: Sequence[KdumpPages]) -> None:
        super().__init__(prog)
        self._files = files

    def unknown(self, pfns: Words) -> Bytes:
        """See ``Memory.unknown``."""
        found = self._files[0].unknown(pfns)
        for file in self._files[1:]:
            here = file.holds(pfns)
            found[here] = file.unknown(pfns[here])
        return found

    def frames(self, pfns: Words) -> tuple[Bytes, Bytes]:
        """See ``Memory.frames``; runs are no faster, each page is decompressed by itself."""
        data = np.empty((len(pfns), PAGE_SIZE), np.uint8)
        contents, unknown = self.contents(pfns)
        known = np.flatnonzero(unknown == Unknown.HASHED)
        for row, content in zip(known.tolist(), contents, strict=True):
            if content:
                data[row] = np.frombuffer(content, np.uint8)
        return data, unknown

    def contents(self, pfns: Words) -> tuple[Iterable[Content], Bytes]:
        """See ``Memory.contents``: b"" for what turns out to be damaged."""
        unknown = self.unknown(pfns)
        return self._decompress(pfns, unknown), unknown

    def _decompress(self, pfns: Words, unknown: Bytes) -> Iterator[bytes]:
        read = self.prog.read
        known = np.flatnonzero(unknown == Unknown.HASHED)
        addresses = pfns[known] << np.uint64(PAGE_SHIFT)
        for row, address in zip(known.tolist(), addresses.tolist(), strict=True):
            try:
                yield read(address, PAGE_SIZE, True)
            except (FaultError, OSError):
                unknown[row] = Unknown.UNREADABLE
                yield b""
