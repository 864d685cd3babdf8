"""Pieces so small that the least system has many of them, and a last one that is not full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_PIECE_ROWS, _PAGES_AT_ONCE = 4096, 64  # whole pages, of any type; a part of these
_SIZES = {
    "packed.PIECE_ROWS": _PIECE_ROWS,
    "collect.workers.PIECE_ROWS": _PIECE_ROWS,
    "collect.further_hashes.PAGES_AT_ONCE": _PAGES_AT_ONCE,
    "kernel.frame_reader._FRAMES_AT_ONCE": 1000,
    "kernel.frame_reader._FEW_FRAMES": 100,
    "kernel.memory.Memory.piece_pages": 300,
    "kernel.memory.RUN_PAGES": 7,
    "kernel.memory.elf.MappedElf.piece_pages": 300,
    "kernel.memory.elf.RUN_PAGES": 7,
    "kernel.memory.files.MappedFiles.piece_pages": 300,
    "kernel.memory.kdump.Kdump.piece_pages": 300,
    "kernel.page_array._RUN_PAGES": 70,
    "kernel.pagetable._ENTRIES_AT_ONCE": 8192,  # a table of pages of 64 KiB
    "procfs.page_contents.PIECE_ROWS": _PIECE_ROWS,
    "procfs.page_contents.PAGES_AT_ONCE": _PAGES_AT_ONCE,
    "procfs.page_contents._FRAMES_AT_ONCE": 1000,
    "procfs.page_contents._FACTS_AT_ONCE": 300,
    "procfs.page_flags._BLOCKS_AT_ONCE": 3,
    "procfs.pagemap._PIECE_PAGES": 1024,  # no huge page lies in two
    "ranks._ROWS_AT_ONCE": 64,
    "snapshot.store.ROW_GROUP_ROWS": 1000,
    "snapshot.stored_table._ROWS_AT_ONCE": 700,
}


@contextmanager
def small_pieces() -> Iterator[None]:
    """What is read, kept and written a piece at a time, in all readers."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in _SIZES.items():
            patch.setattr(f"estimator.{name}", size)
        yield
