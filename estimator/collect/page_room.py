"""Memory for pages that are read and hashed, over and over."""

from __future__ import annotations

import mmap

import numpy as np

from estimator.arrays import Bytes


class PageRoom:
    """Room for ``pages`` pages of ``page_bytes``, from a page boundary on: others fill slower.

    ``memory``: all of it, to read into. ``data``: the same as u8 (pages, page_bytes). ``whole``: it
    page by page. Views are made once: of NumPy rows making them costs as much as hashing them.
    """

    def __init__(self, pages: int, page_bytes: int) -> None:
        room = mmap.mmap(-1, pages * page_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.page_bytes = page_bytes
        self.memory = memoryview(room)
        self.data: Bytes = np.frombuffer(room, np.uint8).reshape(pages, page_bytes)
        self.whole = self.parts(0, page_bytes)

    def __len__(self) -> int:
        return len(self.data)

    def parts(self, begin: int, end: int) -> list[memoryview]:
        """The bytes [begin, end) of each page."""
        return [
            self.memory[page + begin : page + end]
            for page in range(0, len(self.memory), self.page_bytes)
        ]
