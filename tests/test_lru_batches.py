"""References of per-CPU batches, read from a kernel made by hand, are no pins for the model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from estimator.kernel.lru_batches import Batches, read_batches
from estimator.kernel.page_array import PageArray
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.flags import FrameFlag
from tests.fake_kernel import FakeKernel, page_at
from tests.fake_structs import STRUCTS, STRUCTS_5_10
from tests.synthetic import System, small

NEW = STRUCTS | {
    "folio_batch": "nr:u8 i:u8 percpu_pvec_drained:u8 folios:ptr[4]@8",
    "cpu_fbatches": "lock:u64 lru_add:folio_batch lru_deactivate:folio_batch "
    "lru_lazyfree:folio_batch",
    "mlock_fbatch": "lock:u64 fbatch:folio_batch",
}
OLD = STRUCTS_5_10 | {
    "pagevec": "nr:u8 percpu_pvec_drained:u8 pages:ptr[4]@8",
    "lru_pvecs": "lock:u64 lru_add:pagevec lru_lazyfree:pagevec",
    "lru_rotate": "lock:u64 pvec:pagevec",
}
CPUS = 2


class PerCpu:
    """A kernel with two CPUs; ``fill`` puts pages into a batch of one."""

    def __init__(self, structs: Mapping[str, str], variables: tuple[str, ...]) -> None:
        kernel = self.kernel = FakeKernel(structs)
        kernel.integer("nr_cpu_ids", CPUS)
        kernel.global_("__cpu_online_mask", "cpumask", {"bits": [3]})
        kernel.array("__per_cpu_offset", [0, 1 << 20])
        self.areas = {name: kernel.global_(name, name) for name in variables}
        for name, area in self.areas.items():
            kernel.write(area + (1 << 20), bytes(kernel.sizeof(name)))

    def fill(self, cpu: int, name: str, member: str, *pointers: int, nr: int | None = None) -> None:
        pages = "folios" if "folio_batch" in self.kernel._members else "pages"
        fields = {f"{member}.nr": len(pointers) if nr is None else nr}
        area = self.areas[name] + (cpu << 20)
        self.kernel.set(name, area, fields)
        self.kernel.set(name, area, {f"{member}.{pages}": list(pointers)})

    def read(self) -> Batches:
        kernel = self.kernel
        return read_batches(kernel.prog, kernel.memory, PageArray(kernel.prog, kernel.memory))


def test_batches_of_all_cpus_and_kinds() -> None:
    system = PerCpu(NEW, ("cpu_fbatches", "mlock_fbatch"))
    system.fill(0, "cpu_fbatches", "lru_add", page_at(7), page_at(5))
    system.fill(1, "cpu_fbatches", "lru_deactivate", page_at(9))
    system.fill(0, "cpu_fbatches", "lru_lazyfree", page_at(11), page_at(99), nr=1)  # 99 was before
    system.fill(1, "mlock_fbatch", "fbatch", page_at(7) | 1, page_at(8) | 2)
    found = system.read()
    assert found.pfns.tolist() == [5, 7, 8, 9, 11]
    assert found.references.tolist() == [1, 2, 1, 1, 1]
    assert found.unreadable == 0
    assert found.of(np.array([4, 7, 11, 12], np.uint64)).tolist() == [0, 2, 1, 0]


def test_batches_before_there_were_folios() -> None:
    system = PerCpu(OLD, ("lru_pvecs", "lru_rotate"))
    system.fill(0, "lru_pvecs", "lru_lazyfree", page_at(3))
    system.fill(1, "lru_rotate", "pvec", page_at(4), page_at(3))
    found = system.read()
    assert (found.pfns.tolist(), found.references.tolist()) == ([3, 4], [2, 1])


def test_a_batch_that_can_not_be_is_counted() -> None:
    system = PerCpu(NEW, ("cpu_fbatches",))
    system.fill(0, "cpu_fbatches", "lru_add", page_at(1), nr=5)
    system.fill(0, "cpu_fbatches", "lru_lazyfree", page_at(2))
    system.kernel.lose(system.areas["cpu_fbatches"] + (1 << 20))
    found = system.read()
    assert found.pfns.tolist() == [2]
    assert found.unreadable == 1 + 3


@pytest.mark.parametrize(
    ("held", "pins", "flags", "awake", "merge"),
    [
        (1, 1, 0, 0, False),
        (1, 1, 0, 1, True),
        (1, 2, 0, 1, True),
        (1, 3, 0, 1, False),
        (1, 1, FrameFlag.PINNED, 1, False),
        (2, 1, 0, 1, False),  # one of them is somebody else's: which, nobody knows
        (2, 1, 0, 2, True),
    ],
)
def test_what_damon_holds_while_it_is_awake_is_not_pinned(
    held: int, pins: int, flags: int, awake: int, merge: bool
) -> None:
    system = System()
    for content in range(held):
        for _ in range(2):
            system.process(*small(content + 1, flags=flags | FrameFlag.LRU))
        system.process(*small(content + 1, pins=pins, flags=flags | FrameFlag.LRU))
    snapshot = system.snapshot()
    snapshot.info["damon_awake"] = awake
    found = predict(snapshot, Policy(scope="enabled"))
    assert (found.counters["pages_sharing"] == 2 * held) == merge


@pytest.mark.parametrize(
    ("pins", "batches", "flags", "merge"),
    [
        (1, 1, FrameFlag.LRU, True),
        (2, 2, FrameFlag.LRU, True),  # in a batch, and in that of mlock()
        (2, 1, FrameFlag.LRU, False),
        (1, 0, FrameFlag.LRU, False),
        (1, 0, 0, False),  # off the LRU lists, but in no batch
        (1, None, 0, True),  # where nobody read the batches
        (1, None, FrameFlag.LRU, False),
        (1, 0, FrameFlag.LRU | FrameFlag.LOCKED, True),
        (2, 0, FrameFlag.LRU | FrameFlag.LOCKED, True),  # kdamond's, while it walks the mappings
        (3, 0, FrameFlag.LRU | FrameFlag.LOCKED, False),
        (0, 1, FrameFlag.LRU, True),  # drained between two looks
    ],
)
def test_what_a_batch_holds_is_not_pinned(
    pins: int, batches: int | None, flags: int, merge: bool
) -> None:
    system = System()
    for _ in range(2):
        system.process(*small(7, pins=pins, batches=batches, flags=flags))
    found = predict(system.snapshot(), Policy(scope="enabled"))
    assert found.counters["pages_sharing"] == merge
