"""Facts and contents of frames, read and hashed by several processes at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from estimator.arrays import Columns, Words
from estimator.collect.by_pfn import ByPfn
from estimator.collect.further_hashes import Further
from estimator.collect.load import Pace
from estimator.collect.mappings import FRAME_FACTS
from estimator.collect.progress import Progress, silent
from estimator.collect.tables import Table
from estimator.kernel.kcore import own_kcore
from estimator.packed import Packed, add

if TYPE_CHECKING:
    from estimator.kernel.page_array import PageArray
    from estimator.kernel.target import Target

_FRAMES_AT_ONCE = 1 << 20  # in memory as they were read: 40 MB
_FEW_FRAMES = 1 << 14  # are read before another process is forked


class FrameReader:
    """Reads frames of ``target``; options as for ``estimator.kernel.collect.gather``.

    ``further``: what gives further hashes, where they are asked for.
    """

    def __init__(
        self,
        target: Target,
        pages: PageArray,
        *,
        seed: int,
        further: Further | None,
        without_contents: bool,
        workers: int,
        pace: Pace,
        progress: Progress,
    ) -> None:
        self._memory, self._running = target.memory, target.running
        self._pages = pages
        self._seed, self._further = seed, further
        self._without_contents = without_contents
        self._workers = workers
        self._pace = pace
        self._progress = progress

    def read(
        self,
        pfns: Packed,
        kinds: ByPfn | None,
        mm: ByPfn | None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Table:
        """Columns of ``FRAME_FACTS`` of the frames ``pfns``; the hash only of those of a kind.

        And of further hashes, which want the ``mm`` that maps each of them first, -1: none.
        ``kinds``: see ``read_frames``. ``meanwhile`` is what this process does before it helps the
        others.
        """
        from estimator.collect.workers import Pieces, forked, shared_columns

        size, page_bytes = self._memory.piece_pages, self._memory.page_bytes
        dtypes = FRAME_FACTS | (
            {} if self._further is None else self._further.wanted.columns(page_bytes)
        )
        facts = {name: Packed(dtype) for name, dtype in dtypes.items()}
        columns = shared_columns(min(len(pfns), _FRAMES_AT_ONCE), dtypes)

        def read_block(begin: int, block: Words, pieces: Pieces, progress: Progress) -> None:
            for number in pieces:
                piece = slice(number * size, min((number + 1) * size, len(block)))
                for name, values in self._look(block[piece], kinds, mm).items():
                    columns[name][piece] = values
                done = begin + piece.stop
                progress("bytes", done * page_bytes, len(pfns) * page_bytes)

        for begin in range(0, max(len(pfns), 1), _FRAMES_AT_ONCE):
            block = pfns[begin : begin + _FRAMES_AT_ONCE]
            pieces = Pieces(-(-len(block) // size))

            read = partial(read_block, begin, block, pieces)
            others = 0 if len(pfns) <= _FEW_FRAMES else self._workers - 1
            with forked(others, partial(_help, read)):
                if begin == 0:
                    meanwhile()
                read(self._progress)
            add(facts, {name: values[: len(block)] for name, values in columns.items()})
        return facts

    def _look(self, pfns: Words, kinds: ByPfn | None, mm: ByPfn | None) -> Columns:
        """See ``read``; of some thousands of frames."""
        from estimator.kernel.page_contents import leave_unread, read_frames

        if self._without_contents:
            return leave_unread(self._pages, self._memory, pfns)
        of_kind = None if kinds is None else kinds.of(pfns)
        further = None
        if self._further is not None:
            further = self._further, np.full(len(pfns), -1) if mm is None else mm.of(pfns)
        found = read_frames(
            self._pages, self._memory, pfns, self._seed, self._running, of_kind, further
        )
        self._pace(int(np.count_nonzero(found["kind"])) * self._memory.page_bytes)
        return found


def _help(read: Callable[[Progress], None]) -> None:
    """What a forked process does."""
    own_kcore()
    read(silent)
