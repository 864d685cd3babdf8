"""Whether a dump has the pages of processes: found by looking, whatever its headers say."""

from __future__ import annotations

from collections.abc import Sized

import numpy as np

from estimator.arrays import Bytes, Words
from estimator.collect.mappings import distinct
from estimator.errors import CannotAnswerError
from estimator.kernel.page_array import PageArray
from estimator.kernel.target import Target
from estimator.kernel.vmcoreinfo import kernel_release
from estimator.packed import Packed
from estimator.releases import better_dump
from estimator.snapshot.flags import Unknown

_SAMPLES, _SAMPLE_PAGES = 64, 128
_MOST_READ = 512  # frames, where only reading one tells whether it is there


def require_mappings(target: Target, pfns: Sized, unreadable_vmas: int) -> None:
    """Raise CannotAnswerError if a whole dump maps nothing, and lacks VMAs that could.

    A makedumpfile that does not know a kernel takes pages of its slabs for user pages: since 6.10
    it is no flag of a page that tells them apart (PGTY_slab in include/linux/page-flags.h).
    """
    if len(pfns) or not unreadable_vmas or target.running or target.warnings:
        return
    raise CannotAnswerError(
        f"{target.path} lacks memory of the kernel itself: {unreadable_vmas:,} VMAs can't be read, "
        "and no page of any process was found (makedumpfile -d 8 and -d 31 do that if it is older "
        "than the kernel)",
        hint=better_dump(kernel_release(target.prog)),
    )


def require_user_pages(target: Target, pages: PageArray, pfns: Packed) -> None:
    """Raise CannotAnswerError if most of the anonymous frames were left out of the dump.

    ``pfns``: what page tables map, ascending. Judged by a sample, before all are read.
    """
    starts = np.linspace(0, len(pfns), _SAMPLES, endpoint=False, dtype=np.int64)
    sample = distinct(np.concatenate([pfns[row : row + _SAMPLE_PAGES] for row in starts.tolist()]))
    info = pages.read(sample)
    refuse_without_user_pages(target, why_unknown(target, sample[info.ok & info.anonymous]))


def why_unknown(target: Target, pfns: Words) -> Bytes:
    """``Unknown`` codes of the frames ``pfns``, u8; of some of them where each has to be read."""
    if target.running or target.memory.knows_gaps:
        return target.memory.unknown(pfns)
    return target.memory.frames(pfns[:: len(pfns) // _MOST_READ + 1])[1]


def refuse_without_user_pages(target: Target, unknown: Bytes) -> None:
    """Raise CannotAnswerError if most of the anonymous frames with these codes were left out."""
    excluded = int(np.count_nonzero(unknown == Unknown.EXCLUDED))
    if 2 * excluded > len(unknown):
        raise CannotAnswerError(
            f"{target.path} has no user pages: {excluded:,} of {len(unknown):,} anonymous frames "
            "looked for were left out (makedumpfile -d 8 or -d 31 does that)",
            hint=f"{better_dump(kernel_release(target.prog))}; or ask for what can be said without "
            "them: --without-contents",
        )
