"""A kdump file as physical memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from drgn import FaultError, Program

from estimator.arrays import Bytes, Words
from estimator.collect.limits import is_own_limit
from estimator.kernel.dump.kdump_headers import KdumpPages
from estimator.kernel.dump.page_cache import PageCache
from estimator.kernel.memory import Digest, Memory
from estimator.snapshot.flags import Unknown


class Kdump(Memory):
    """A kdump file: what can't be read is known beforehand, what can is decompressed once.

    ``files``: one, or all of a split dump by PFN.
    """

    piece_pages = 16_384
    knows_gaps = True

    def __init__(self, prog: Program, files: Sequence[KdumpPages]) -> None:
        super().__init__(prog)
        self._files = files
        self._opened = [file.path.open("rb", buffering=0) for file in files]
        self._caches = [PageCache(opened.fileno()) for opened in self._opened]

    def unknown(self, pfns: Words) -> Bytes:
        """See ``Memory.unknown``."""
        found = self._files[0].unknown(pfns)
        for file in self._files[1:]:
            here = file.holds(pfns)
            found[here] = file.unknown(pfns[here])
        return found

    def frames(self, pfns: Words) -> tuple[Bytes, Bytes]:
        """See ``Memory.frames``; runs are no faster, each page is decompressed by itself."""
        data = np.empty((len(pfns), self.page_bytes), np.uint8)
        unknown = self.unknown(pfns)
        for row, content in self._decompress(pfns, unknown):
            data[row] = np.frombuffer(content, np.uint8)
        return data, unknown

    def digests(self, pfns: Words, digest: Digest) -> tuple[Words, Bytes]:
        """See ``Memory.digests``."""
        unknown = self.unknown(pfns)
        values = list(digest(content for _, content in self._decompress(pfns, unknown)))
        found = np.zeros(len(pfns), np.uint64)
        found[unknown == Unknown.HASHED] = np.array(values, np.uint64)
        for file, cache in zip(self._files, self._caches, strict=True):
            if cache.of_large_file:
                cache.give_back(*file.extent(pfns))
        return found, unknown

    def close(self) -> None:
        """See ``Memory.close``."""
        for cache in self._caches:
            cache.give_back_rest()
        self._files, self._caches = (), []
        for opened in self._opened:
            opened.close()

    def _decompress(self, pfns: Words, unknown: Bytes) -> Iterator[tuple[int, bytes]]:
        """Row and content of those of ``pfns`` that can be read; notes in ``unknown`` the others.

        Only where ``unknown`` does not say beforehand that they can't.
        """
        read = self.prog.read
        known = np.flatnonzero(unknown == Unknown.HASHED)
        addresses = pfns[known] << np.uint64(self.page_shift)
        for row, address in zip(known.tolist(), addresses.tolist(), strict=True):
            try:
                content = read(address, self.page_bytes, True)
            except (FaultError, OSError) as error:
                if is_own_limit(error):
                    raise
                unknown[row] = Unknown.UNREADABLE
            else:
                yield row, content
