"""The page size of this machine."""

from __future__ import annotations

import mmap

import numpy as np

PAGE_BYTES = mmap.PAGESIZE
PAGE_SHIFT = np.uint64(PAGE_BYTES.bit_length() - 1)
HUGE_PAGES = PAGE_BYTES // 8  # HPAGE_PMD_NR: a leaf table is one page of 8-byte entries
