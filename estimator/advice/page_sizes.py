"""What larger pages would share: aligned groups of pages, as such a kernel would lay them out.

A group is whole if all its pages are present in one VMA, visited by ksmd and known. Two groups
share if they are equal byte for byte and do not lie on the same frames already. What is not whole
counts as nothing: a kernel with larger pages would have it present and, mostly, different.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from estimator.advice.attribution import page_bytes
from estimator.arrays import Ints, Words
from estimator.ksm.contents import content_keys
from estimator.ksm.prediction import Prediction
from estimator.snapshot.snapshot import Snapshot

PAGE_SIZES = (4 << 10, 16 << 10, 64 << 10, 2 << 20)
"""Bytes: of x86_64 and arm64, and a huge page."""
_MIX = np.uint64(0x9E37_79B9_7F4A_7C15)


def larger_pages(snapshot: Snapshot, prediction: Prediction) -> pd.DataFrame:
    """One row per size of ``PAGE_SIZES``, from the kernel's own on.

    Columns: page_bytes; whole_bytes, what lies in whole groups (frames that several map count
    once); bytes_saved, if of the equal groups one stayed.
    """
    base = page_bytes(snapshot)
    rows = np.flatnonzero(prediction.scanned)
    table = snapshot.mappings
    vma = table["vma_id"].to_numpy()[rows]
    start = snapshot.vmas["start"].to_numpy() // np.uint64(base)
    page = start[vma] + table["page_index"].to_numpy()[rows]
    frame = table["frame_id"].to_numpy()[rows]
    content = content_keys(snapshot.frames)[frame]
    found = []
    for size in PAGE_SIZES:
        if size < base:
            continue
        pages = size // base
        first = _whole_groups(vma, page, pages)
        frames = pd.Series(_together(frame.astype(np.uint64), first, pages))
        of = pd.DataFrame({"frames": frames, "content": _together(content, first, pages)})
        of = of.drop_duplicates("frames")
        found.append(
            {
                "page_bytes": size,
                "whole_bytes": len(of) * size,
                "bytes_saved": (len(of) - of["content"].nunique()) * size,
            }
        )
    return pd.DataFrame(found, columns=["page_bytes", "whole_bytes", "bytes_saved"])


def _whole_groups(vma: Ints, page: Words, pages: int) -> Ints:
    """Where the rows of each whole group begin; ``pages`` of them follow one another."""
    group = page // np.uint64(pages)
    if not len(group):
        return np.zeros(0, np.int64)
    new = np.append(True, (group[1:] != group[:-1]) | (vma[1:] != vma[:-1]))
    begins = np.flatnonzero(new)
    lengths = np.diff(np.append(begins, len(group)))
    whole: Ints = begins[lengths == pages]
    return whole


def _together(words: Words, first: Ints, pages: int) -> Words:
    """One number for the ``pages`` words from each of ``first`` on, in their order (u64)."""
    found = np.zeros(len(first), np.uint64)
    for number in range(pages):
        found = (found ^ words[first + number]) * _MIX
        found ^= found >> np.uint64(29)
    return found
