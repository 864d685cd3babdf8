"""Damaged dumps: no crash, no hang, no other number without a word."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.campaign import Dumps, campaign
from tests.lab.conftest import lab_kernel
from tests.lab.dumps import SERIES
from tests.lab.makedumpfile import makedumpfile

pytestmark = pytest.mark.lab

CASES = 130
#: Some things the kernel says only once: flags of a VMA, who is in which group.
SILENT_AT_MOST = 0.02


@pytest.fixture
def damaged(moment: Path, tmp_path: Path) -> Iterator[Dumps]:
    for name in ("elf", "kdump-zlib"):
        shutil.copyfile(moment / name, tmp_path / name)
    makedumpfile("-l -d 1", moment / "elf-for-makedumpfile", tmp_path / "lzo")
    others = (tmp_path / "lzo", tmp_path / "kdump-zlib")
    yield Dumps(tmp_path / "elf", others, lab_kernel(SERIES).vmlinux)
    for path in tmp_path.iterdir():
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("seed", range(4))
def test_damage_is_told(seed: int, damaged: Dumps) -> None:
    outcomes = campaign(damaged, CASES, seed)
    assert [outcome for outcome in outcomes if outcome.result == "failed"] == []
    results = Counter(outcome.result for outcome in outcomes)
    assert results["told"] + results["refused"] > CASES / 4  # it was damage
    silent = [outcome for outcome in outcomes if outcome.result == "silent"]
    assert len(silent) <= SILENT_AT_MOST * len(outcomes), silent
