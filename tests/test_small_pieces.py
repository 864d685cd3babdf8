"""A large machine is read in many pieces: the same snapshot as in one."""

from __future__ import annotations

from functools import partial

import pandas as pd
import pytest

from estimator.collect.further_hashes import Wanted
from estimator.procfs.collect import collect_procfs
from estimator.snapshot.flags import FrameFlag
from estimator.snapshot.snapshot import Snapshot
from tests.small_pieces import small_pieces
from tests.test_procfs import at_base, digest, needs_pfns, on_command, only

_PAGES = 5300
_HUGE_PAGES = (  # pieces end within what is behind the first of them
    "at = libc.mmap(None, 9 << 21, 3, 0x22, -1, 0)",  # PROT_READ | _WRITE, MAP_PRIVATE | _ANONYMOUS
    "libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(9 << 21), 14)",  # MADV_HUGEPAGE
    "ctypes.memset(at + 4096, 7, 8 << 21)",
)


@needs_pfns
@pytest.mark.parametrize("workers", [1, 3])
def test_processes_through_proc(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    collect = partial(
        collect_procfs,
        seed=0,
        pace=lambda _: None,
        workers=workers,
        wanted=Wanted(True, True),
        progress=lambda *_: None,
    )
    with on_command(_PAGES, "fork") as (pids, execute):
        for line in _HUGE_PAGES:
            execute(line)
        only(pids, monkeypatch)
        whole = collect()
        with small_pieces():
            small = collect()
    assert at_base(small, pids[1]) == {page: digest(page % 200 + 1) for page in range(_PAGES)}
    for name in ("processes", "vmas"):
        pd.testing.assert_frame_equal(getattr(small, name), getattr(whole, name))
    pd.testing.assert_frame_equal(by_mapping(small), by_mapping(whole))


def by_mapping(snapshot: Snapshot) -> pd.DataFrame:
    """Every mapping with what is known of its frame, which the kernel may move."""
    frames = snapshot.frames.drop(columns=["pfn", "head_pfn", "node"]).rename(
        columns={"flags": "frame_flags"}
    )
    frames["frame_flags"] &= (
        ~int(FrameFlag.LRU) & 0xFFFF_FFFF
    )  # it puts them on lists when it likes
    rows = snapshot.mappings.join(frames, on="frame_id")
    return rows.drop(columns="frame_id")
