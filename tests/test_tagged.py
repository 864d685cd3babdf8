"""Frames with tags of MTE (arm64) merge with none, whatever their bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drgn import Architecture

from estimator.kernel import page_array
from estimator.kernel.page_array import PageArray
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.flags import FrameFlag
from tests.fake_kernel import FakeKernel
from tests.fake_structs import CONSTANTS
from tests.synthetic import System, folio, small

ENABLED = Policy(scope="enabled")
TAGGED = FrameFlag.LRU | FrameFlag.SWAPBACKED | FrameFlag.MTE


def counters(*processes: Any, **ksm: Any) -> dict[str, int]:
    system = System(**ksm)
    system.processes_with(*processes)
    return dict(predict(system.snapshot(), ENABLED).counters)


@pytest.mark.parametrize("use_zero_pages", [0, 1])
def test_not_with_each_other_and_not_with_the_zero_page(use_zero_pages: int) -> None:
    found = counters(
        small(0, 1, 1, flags=TAGGED),
        small(0, 1, flags=TAGGED),
        small(2, 2),
        use_zero_pages=use_zero_pages,
    )
    assert (found["pages_shared"], found["pages_sharing"], found["pages_unshared"]) == (1, 1, 5)
    assert found["ksm_zero_pages"] == 0


def test_a_frame_that_fork_shares_is_unshared_once() -> None:
    shared = small(1, flags=TAGGED)
    found = counters(shared, shared, shared)
    assert (found["pages_unshared"], found["pages_volatile"]) == (1, 2)


def test_zero_filled_pieces_stay_when_a_huge_page_is_split() -> None:
    def freed(flags: int) -> int:
        system = System()
        pieces = folio([0] * 4 + [7, *range(20, 23)], flags=flags)
        pieces[4].flags &= ~FrameFlag.MTE
        system.processes_with(pieces, small(7))
        return int(predict(system.snapshot(), ENABLED).physical["frames_freed"])

    assert freed(TAGGED) == 1
    assert freed(TAGGED & ~FrameFlag.MTE) == 5


@pytest.mark.parametrize("twins", [0, 2])
def test_what_may_pass_by_its_like_is_named(twins: int) -> None:
    system = System()
    system.processes_with(small(1, flags=TAGGED), small(*[1 if twins else 2] * 2))
    text = " ".join(predict(system.snapshot(), ENABLED).warnings)
    assert "1 candidate frame of memory with tags (MTE)" in text
    assert ("2 frames without tags have the bytes" in text) == bool(twins)


@pytest.mark.parametrize(
    ("architecture", "flag"), [(Architecture.AARCH64, FrameFlag.MTE), (Architecture.X86_64, 0)]
)
def test_pg_arch_2_is_a_tag_on_arm64_alone(
    architecture: Architecture, flag: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_array, "page_table_format", lambda _: _Format)
    constants = CONSTANTS | {"PG_arch_2": 20}
    kernel = FakeKernel(constants=constants, architecture=architecture)
    kernel.page(1, (), {"flags": 1 << 20})
    pages = PageArray(kernel.prog, kernel.memory)
    assert pages.read(np.array([1], np.uint64)).flags.tolist() == [flag]


class _Format:
    bits_per_level = 9
