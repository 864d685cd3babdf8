"""VMAs that can't be: what is left of overlapping ones. Those that ksmd leaves alone, and why."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from drgn import Program
from hypothesis import example, given
from hypothesis import strategies as st

from estimator.kernel import vmas as of_kernel
from estimator.kernel.vmas import Vmas, ends_before_next
from estimator.ksm.vm_flags import EXCLUDING, LETTERS, VALUES
from estimator.procfs import vmas as of_smaps
from estimator.procfs.processes import Process

vma = st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(1, 40))  # mm, start, size


@given(st.lists(vma, max_size=15))
@example([(0, 0, 40), (0, 10, 5), (0, 20, 5)])  # one over two others
def test_what_is_left_does_not_overlap(vmas: list[tuple[int, int, int]]) -> None:
    vmas = sorted(vmas)
    mm, start, size = (np.array(part, np.int64) for part in np.array(vmas).reshape(-1, 3).T)
    end = start + size
    kept = ends_before_next(mm, start.astype(np.uint64), end.astype(np.uint64))
    left = [(m, s, s + n) for (m, s, n), keep in zip(vmas, kept.tolist(), strict=True) if keep]
    for (mm_a, _, end_a), (mm_b, start_b, _) in pairwise(left):
        assert mm_a != mm_b or end_a <= start_b
    lost = [(m, s, s + n) for (m, s, n), keep in zip(vmas, kept.tolist(), strict=True) if not keep]
    for m, s, e in lost:  # none without need
        assert sum(m == m2 and s2 < e and s < s2 + n2 for m2, s2, n2 in vmas) > 1


def through_drgn(flags: list[int], files: list[int], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    words = np.array(flags, np.uint64)
    none = np.zeros_like(words)
    table = Vmas(
        none.astype(np.uint32), none, none, words, none, np.array(files, np.uint64), none, 0
    )
    prog = cast(Program, {"vmaflag_names": []})
    monkeypatch.setattr(of_kernel, "_dax_files", lambda prog, files: {1})
    values = of_kernel.vm_flag_values(prog)
    return of_kernel.excluded_by(prog, table, values).tolist()


def through_smaps(flags: list[int], where: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    lines = []
    for number, value in enumerate(flags):
        letters = [name for name, flag in LETTERS.items() if value & flag]
        lines.append(f"{number:x}000-{number + 1:x}000 rw-p 00000000 00:00 0 ")
        lines.append(f"Anonymous: 4 kB\nVmFlags: {' '.join(letters)} ")
    (where / "7").mkdir()
    (where / "7" / "smaps").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(of_smaps, "PROC", where)
    return of_smaps.read_vmas([Process(7, "x", [])], 1)[0]


def test_both_readers_exclude_a_vma_by_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One flag each, and any two: a MAP_SHARED VMA has both VM_SHARED and VM_MAYSHARE."""
    single = list(VALUES.values())
    flags = single + [a | b for a, b in combinations(single, 2)]
    ours = through_drgn(flags, [0] * len(flags), monkeypatch)
    theirs = through_smaps(flags, tmp_path, monkeypatch)
    assert theirs["vm_flags"].tolist() == flags
    assert theirs["excluded_by"].tolist() == ours
    assert theirs["compatible"].tolist() == [reason is None for reason in ours]
    assert ours[: len(single)] == [f"VM_{n.upper()}" if n in EXCLUDING else None for n in VALUES]
    assert ours[flags.index(VALUES["shared"] | VALUES["mayshare"])] == "VM_SHARED"
    mask = sum(VALUES[name] for name in EXCLUDING)
    assert mask == 0x10010444488  # of 6.11 and later


def test_dax_is_named_where_no_flag_excludes(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [VALUES["read"], VALUES["shared"], VALUES["read"]]
    assert through_drgn(flags, [1, 1, 0], monkeypatch) == ["DAX", "VM_SHARED", None]
