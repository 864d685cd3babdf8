"""Tasks, mms and ksmd's list of a kernel made by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from estimator.kernel.processes import Damon, reread_roots, still_there
from tests.fake_kernel import DIRECT_MAP
from tests.fake_processes import FakeProcesses
from tests.fake_structs import STRUCTS, STRUCTS_6_1

EXITING, KTHREAD = 0x4, 0x20_0000
MERGE_ANY = 30  # MMF_VM_MERGE_ANY; 29 in 6.4-6.6
BOTH = pytest.mark.parametrize("structs", [STRUCTS, STRUCTS_6_1], ids=["6.12", "6.1"])


@BOTH
def test_ksmds_list_first_then_by_age(structs: Mapping[str, str]) -> None:
    kernel = FakeProcesses(structs)
    old, young = kernel.mm(listed=False), kernel.mm(listed=False)
    second, first = kernel.mm(), kernel.mm()
    kernel.task(10, young, {"start_time": 900}, uid=1000, threads=3)
    kernel.task(20, first, {"start_time": 800, "static_prio": 139, "policy": 3})
    kernel.task(30, old, {"start_time": 700, "static_prio": 100})
    kernel.task(40, second, {"start_time": 600, "comm": b"0123456789abcdef"})
    mms = kernel.read_mms()
    table = mms.columns
    assert mms.addresses.tolist() == [second, first, old, young]
    assert table["scan_order"].tolist() == [0, 1, -1, -1]
    assert table["pid"].tolist() == [40, 20, 30, 10]
    assert table["comm"].tolist() == ["0123456789abcdef", "task20", "task30", "task10"]
    assert table["uid"].tolist() == [0, 0, 0, 1000]
    assert table["threads"].tolist() == [1, 1, 1, 3]
    assert table["nice"].tolist() == [0, 19, -20, 0]
    assert table["sched_policy"].tolist() == [0, 3, 0, 0]
    assert table["start_time_ns"].tolist() == [600, 800, 700, 900]
    assert mms.unreadable == 0
    kept = mms.keep(np.array([False, True, True, False]))
    assert kept.columns["pid"].tolist() == [20, 30]
    assert kept.addresses.tolist() == [first, old]
    assert kept.unreadable == 2


def test_the_parent_is_a_thread_group_and_may_not_be_known() -> None:
    kernel = FakeProcesses()
    mms = [kernel.mm(listed=False) for _ in range(3)]
    parent = kernel.task(7, mms[0], {"tgid": 7})
    thread = kernel.new("task_struct", {"pid": 8, "tgid": 7})
    kernel.task(9, mms[1], {"real_parent": thread, "tgid": 9})
    lost = kernel.new("task_struct", {"tgid": 5}, apart=True)
    kernel.task(10, mms[2], {"real_parent": lost, "tgid": 10})
    kernel.lose(lost)
    kernel.set("task_struct", parent, {"real_parent": kernel.new("task_struct")})  # init_task
    found = kernel.read_mms().columns["parent_pid"]
    assert found.tolist() == [0, 7, None]


def test_who_shares_an_mm_is_one_row() -> None:
    kernel = FakeProcesses()
    mm = kernel.mm(listed=False)
    for pid, threads in ((7, 2), (9, 5), (8, 1)):
        kernel.task(pid, mm, threads=threads)
    table = kernel.read_mms().columns
    assert table["pid"].tolist() == [7]
    assert table["threads"].tolist() == [8]
    assert table["sharing_pids"].tolist() == [[8, 9]]


def test_tasks_without_an_mm_of_their_own() -> None:
    kernel = FakeProcesses()
    mm = kernel.mm(listed=False)
    kernel.task(1, mm)
    kernel.task(2, 0, {"flags": KTHREAD})
    kernel.task(3, mm, {"flags": KTHREAD})  # kthread_use_mm()
    kernel.task(4, 0, {"flags": EXITING})  # a zombie
    mms = kernel.read_mms()
    assert mms.columns["pid"].tolist() == [1]
    assert mms.columns["sharing_pids"].tolist() == [[]]
    assert mms.unreadable == 0
    assert not mms.damon.runs
    kernel.task(5, mm, {"comm": b"kdamond.0"})  # no thread of the kernel's
    assert not kernel.read_mms().damon.runs
    kernel.task(6, 0, {"comm": b"kdamond.1", "flags": KTHREAD})
    mms = kernel.read_mms()
    assert mms.damon.runs
    assert mms.keep(np.array([True])).damon == Damon(runs=True, awake=1)
    kernel.task(8, 0, {"comm": b"kdamond.2", "flags": KTHREAD, "__state": 0x402})  # TASK_IDLE
    kernel.task(9, 0, {"comm": b"kworker", "flags": KTHREAD})
    assert kernel.read_mms().damon.awake == 1
    kernel.task(7, 0)
    assert kernel.read_mms().unreadable == 1


def test_the_cpu_time_of_ksmd() -> None:
    kernel = FakeProcesses()
    kernel.task(5, kernel.mm(), {"comm": b"ksmd", "se.sum_exec_runtime": 1})  # no thread of ksm.c
    assert kernel.read_mms().ksmd_cpu_ns is None
    kernel.task(6, 0, {"comm": b"ksmd", "flags": KTHREAD, "se.sum_exec_runtime": 7_000})
    mms = kernel.read_mms()
    assert mms.ksmd_cpu_ns == 7_000
    assert mms.keep(np.array([True])).ksmd_cpu_ns == 7_000


def test_an_exited_leader_leaves_its_mm_to_its_threads() -> None:
    kernel = FakeProcesses()
    mm = kernel.mm(listed=False)
    leader = kernel.task(6, 0, {"flags": EXITING})
    kernel.thread(leader, 0)
    kernel.thread(leader, mm)
    mms = kernel.read_mms()
    assert mms.columns["pid"].tolist() == [6]
    assert mms.addresses.tolist() == [mm]


def test_an_mm_on_ksmds_list_that_no_task_has() -> None:
    kernel = FakeProcesses()
    kernel.mm()
    row = {name: values[0] for name, values in kernel.read_mms().columns.items()}
    assert (row["pid"], row["nice"], row["threads"], row["comm"]) == (-1, 0, 0, "")
    assert row["start_time_ns"] == np.iinfo(np.uint64).max


def test_mms_that_are_going_away_are_left_out() -> None:
    """ksm_test_exit(): mm_users is 0. And what has no page table where one can be."""
    kernel = FakeProcesses()
    outside, odd = DIRECT_MAP - 4096, DIRECT_MAP + 4097
    for fields in ({"mm_users.counter": 0}, {"pgd": outside}, {"pgd": odd}, {"pgd": 0x1000}):
        kernel.mm(fields)
    mms = kernel.read_mms()
    assert not len(mms.structs)
    assert not mms.columns


@BOTH
def test_opt_in_of_whole_processes(structs: Mapping[str, str]) -> None:
    bits = (MERGE_ANY, MERGE_ANY - 1)
    for functions, smart_scan, expected in (
        ((), False, [None, None]),
        (("ksm_enable_merge_any",), False, [False, True]),
        (("ksm_enable_merge_any",), True, [True, False]),
    ):
        kernel = FakeProcesses(structs, functions=functions)
        if smart_scan:  # 6.7+, as MMF_VM_MERGE_ANY 30
            kernel.integer("ksm_smart_scan", 1)
        for bit in bits:
            kernel.mm({"flags": 1 << bit})
        found = kernel.read_mms().columns["merge_any"]
        assert found.tolist() == expected


@pytest.mark.parametrize("words", [1, 2])
def test_mm_flags_as_a_bitmap(words: int) -> None:
    """mm_flags_t, 6.18+: its first word has the flags."""
    structs = STRUCTS | {
        "mm_flags": f"__mm_flags:ulong[{words}]",
        "mm_struct": STRUCTS["mm_struct"].replace("flags:u64", "flags:mm_flags"),
    }
    kernel = FakeProcesses(structs, functions=("ksm_enable_merge_any",))
    kernel.integer("ksm_smart_scan", 1)
    for word in (1 << MERGE_ANY, 0):
        kernel.mm({"flags.__mm_flags": [word] + [0] * (words - 1)})
    assert kernel.read_mms().columns["merge_any"].tolist() == [True, False]


def test_ksms_counters_of_an_mm() -> None:
    """What a kernel does not count is unknown, as is a counter that can't be."""
    counters = ["ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages"]
    kernel = FakeProcesses()
    kernel.mm({"ksm_rmap_items": 9, "ksm_merging_pages": 5, "ksm_zero_pages.counter": 2})
    kernel.mm({"ksm_rmap_items": 9, "ksm_zero_pages.counter": -1})
    found = kernel.read_mms().columns
    assert [found[name].tolist() for name in counters] == [[9, 9], [5, 0], [2, None]]
    kernel = FakeProcesses(STRUCTS_6_1)
    kernel.mm({"ksm_merging_pages": 5})
    found = kernel.read_mms().columns
    assert [found[name].tolist() for name in counters] == [[None], [5], [None]]


@pytest.mark.parametrize("parent", ["parent", "__parent"])
def test_paths_of_cgroups(parent: str) -> None:
    node = STRUCTS["kernfs_node"].replace("parent", parent)  # 6.15, 633488947ef6
    kernel = FakeProcesses(STRUCTS | {"kernfs_node": node})
    root = kernel.new("kernfs_node", {"name": kernel.string(b"")})
    tree = kernel.new("kernfs_root", {"kn": root})
    kernel.set("kernfs_node", root, {"dir.root": tree})

    def below(name: bytes, above: int) -> int:
        fields = {"name": kernel.string(name), parent: above, "dir.root": tree}
        return kernel.new("kernfs_node", fields)

    slice_ = below(b"system.slice", root)
    circle = below(b"a", slice_)
    kernel.set("kernfs_node", circle, {parent: below(b"b", circle)})
    paths = {slice_: "/system.slice", below(b"db", slice_): "/system.slice/db", root: "/"}
    for pid, place in enumerate((*paths, circle), 1):
        css_set = kernel.new("css_set", {"dfl_cgrp": kernel.new("cgroup", {"kn": place})})
        kernel.task(pid, kernel.mm(), {"cgroups": css_set})
    kernel.task(9, kernel.mm(), {"cgroups": 0xFFFF_8888_0000_0000})
    kernel.task(10, kernel.mm())
    assert kernel.read_mms().columns["cgroup"].tolist() == [*paths.values(), "", "", ""]


def test_a_damaged_list_of_tasks_ends_where_it_goes_astray() -> None:
    kernel = FakeProcesses()
    tasks = [kernel.task(pid, kernel.mm(listed=False), apart=pid == 3) for pid in (1, 2, 3, 4)]
    link = kernel.offset("task_struct", "tasks")
    kernel.lose(tasks[2])
    assert kernel.read_mms().columns["pid"].tolist() == [1, 2]
    kernel.set("list_head", tasks[1] + link, {"next": tasks[0] + link})  # a loop
    assert kernel.read_mms().columns["pid"].tolist() == [1, 2]
    kernel.set("list_head", tasks[1] + link, {"next": tasks[3] + link})  # does not point back
    assert kernel.read_mms().columns["pid"].tolist() == [1, 2]


@pytest.mark.parametrize("damage", [{"pid": -4}, {"pid": 0}, {"static_prio": 140}, {"policy": 999}])
def test_what_can_not_be_a_task_is_lost(damage: dict[str, int]) -> None:
    kernel = FakeProcesses()
    kernel.task(1, kernel.mm(listed=False))
    kernel.task(2, kernel.mm(listed=False), damage)
    mms = kernel.read_mms()
    assert mms.columns["pid"].tolist() == [1]
    assert mms.unreadable == 1


def test_an_mm_that_can_not_be_read_is_lost() -> None:
    kernel = FakeProcesses()
    kernel.task(1, kernel.mm(listed=False))
    kernel.task(2, 0xFFFF_8888_0000_0000)
    mms = kernel.read_mms()
    assert mms.columns["pid"].tolist() == [1]
    assert mms.unreadable == 1


def test_what_is_still_there() -> None:
    """Exited, or the same memory used for another mm: not there, without VMAs."""
    kernel = FakeProcesses()
    addresses = [kernel.mm({"mm_mt.ma_root": 0x100 * n, "map_count": n}) for n in range(1, 5)]
    mms = kernel.read_mms()
    kernel.set("mm_struct", addresses[1], {"mm_users.counter": 0})
    kernel.set("mm_struct", addresses[2], {"arg_start": 5})
    kernel.set("mm_struct", addresses[3], {"mm_mt.ma_root": 0x900, "map_count": 7})
    assert still_there(kernel.prog, kernel.memory, mms).tolist() == [True, False, False, True]
    roots, counts = reread_roots(kernel.prog, kernel.memory, mms)
    assert roots.tolist() == [0x100, 0, 0, 0x900]
    assert counts.tolist() == [1, 0, 0, 7]
