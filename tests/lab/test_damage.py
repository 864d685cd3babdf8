"""Damaged dumps: no crash, no hang, no other number without a word."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from drgn.helpers.linux.mm import follow_phys, pfn_to_page

from estimator.kernel.collect import collect
from estimator.kernel.core import open_core
from estimator.kernel.memory.elf import MappedElf
from estimator.snapshot.flags import FrameFlag, FrameKind
from tests.lab.campaign import WITHOUT_NOTE, Dumps, campaign
from tests.lab.conftest import again, lab_kernel
from tests.lab.dumps import SERIES
from tests.lab.makedumpfile import makedumpfile
from tests.lab.spoiled import without_note

pytestmark = pytest.mark.lab

CASES = 130
#: Some things the kernel says only once: flags of a VMA, who is in which group.
SILENT_AT_MOST = 0.02


@pytest.fixture
def damaged(moment: Path, tmp_path: Path) -> Iterator[Dumps]:
    for name in ("elf", "kdump-zlib"):
        shutil.copyfile(moment / name, tmp_path / name)
    makedumpfile("-l -d 1", moment / "elf-for-makedumpfile", tmp_path / "lzo")
    without_note(moment / "elf", tmp_path / WITHOUT_NOTE)
    others = (tmp_path / "lzo", tmp_path / "kdump-zlib", tmp_path / WITHOUT_NOTE)
    yield Dumps(tmp_path / "elf", others, lab_kernel(SERIES).vmlinux)
    for path in tmp_path.iterdir():
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("seed", [0, again(1)])
def test_damage_is_told(seed: int, damaged: Dumps) -> None:
    outcomes = campaign(damaged, CASES, seed)
    assert [outcome for outcome in outcomes if outcome.result == "failed"] == []
    results = Counter(outcome.result for outcome in outcomes)
    assert results["told"] + results["refused"] > CASES / 4  # it was damage
    silent = [outcome for outcome in outcomes if outcome.result == "silent"]
    assert len(silent) <= SILENT_AT_MOST * len(outcomes), silent


def test_a_single_lost_page_is_missed(moment: Path, tmp_path: Path) -> None:
    """The counter of its process has it: since 6.2 these are exact."""
    elf, symbols = tmp_path / "elf", [lab_kernel(SERIES).vmlinux]
    shutil.copyfile(moment / "elf", elf)
    target = open_core(elf, symbols)
    whole = collect(target)
    assert whole.info["unknown"]["anonymous_pages"] == 0
    frames = whole.frames
    shared = (frames["flags"].to_numpy() & np.uint32(FrameFlag.LARGE)) != 0
    shared |= frames["kind"].to_numpy() == FrameKind.KSM
    alone = (frames["mapcount"] == 1) & ~shared
    pfn = int(frames["pfn"][alone].iloc[100])
    mapping = pfn_to_page(target.prog, pfn).mapping.address_of_()
    physical = follow_phys(target.prog["init_mm"].address_of_(), mapping).value_()
    assert isinstance(target.memory, MappedElf)
    (offset,), _ = target.memory._locate(np.array([physical], np.uint64), 8)
    with elf.open("r+b") as file:
        file.seek(int(offset))
        file.write(bytes(8))  # no longer PageAnon()
    found = collect(open_core(elf, symbols))
    elf.unlink()
    assert len(found.frames) == len(frames) - 1
    assert found.info["unknown"]["anonymous_pages"] == 1
