"""Why KSM saves little: the first lines say what holds the memory back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from estimator.advice.reasons import reasons
from estimator.advice.verdict import savings
from estimator.ksm.policy import Policy, Scope
from estimator.ksm.predict import predict
from estimator.report.prediction_sections import prediction_sections
from estimator.report.words import verdict
from estimator.snapshot.flags import FrameFlag, MappingFlag
from estimator.snapshot.snapshot import Snapshot
from tests.synthetic import System, small
from tests.systems import Area, Process, fork_server, system
from tests.test_model_predict import merged

OWN = list(range(1000, 1400))
ANON = FrameFlag.LRU | FrameFlag.ANON_EXCLUSIVE
PASSING = ANON | FrameFlag.LOCKED


def why(snapshot: Snapshot, policy: Policy | None = None) -> list[str]:
    prediction = predict(snapshot, policy)
    return reasons(snapshot, prediction, savings(snapshot, prediction))


def test_nobody_opted_in() -> None:
    snapshot = system([Process("a", [Area([7] * 100)]), Process("b", [Area([7] * 100)])])
    (reason,) = why(snapshot, Policy(scope="enabled"))
    assert reason.startswith("Nobody has opted in: 800 KiB of anonymous memory is in VMAs")
    assert "--scope all" in reason
    sections = prediction_sections(snapshot, predict(snapshot, Policy(scope="enabled")))
    assert [section.title for section in sections][1] == "Why so little"


@pytest.mark.parametrize("processes", [[], [Process("a", [])]])
@pytest.mark.parametrize("scope", ["all", "enabled"])
def test_there_is_nothing(processes: list[Process], scope: Scope) -> None:
    assert why(system(processes), Policy(scope=scope)) == []


@pytest.mark.parametrize(("opted_in", "words"), [(1, "1 process has"), (2, "2 processes have")])
def test_few_opted_in(opted_in: int, words: str) -> None:
    few = [Process("a", [Area([n], mergeable=True)]) for n in range(opted_in)]
    snapshot = system([*few, Process("b", [Area([7] * 100)])])
    assert why(snapshot, Policy(scope="enabled"))[0].startswith(f"Only {words} opted in: 400 KiB")


@pytest.mark.parametrize(("run", "words"), [(0, "run is 0"), (2, "run is 2: it has unmerged all")])
def test_ksmd_is_off(run: int, words: str) -> None:
    snapshot = system([Process("a", [Area([7] * 100, mergeable=True)])])
    snapshot.info["ksm"]["run"] = run
    prediction = predict(snapshot, Policy(scope="enabled"))
    _, first, *_ = prediction_sections(snapshot, prediction)
    assert first.title == "Why nothing is merged yet"
    assert first.bullets == [
        f"ksmd is off ({words}): nothing of the 400 KiB that is opted in is merged now. "
        "What starts it: echo 1 > /sys/kernel/mm/ksm/run"
    ]


def test_ksmd_is_off_and_there_is_little() -> None:
    snapshot = system([Process("a", [Area(OWN, mergeable=True)])])
    _, first, *_ = prediction_sections(snapshot, predict(snapshot, Policy(scope="enabled")))
    assert first.title == "Why so little"
    assert [line.partition(" ")[0] for line in first.bullets] == ["ksmd", "All"]


@pytest.mark.parametrize(("run", "scope"), [(1, "enabled"), (None, "enabled"), (0, "all")])
def test_ksmd_is_not_what_holds_it_back(run: int | None, scope: Scope) -> None:
    snapshot = system([Process("a", [Area([7] * 100, mergeable=True)])])
    snapshot.info["ksm"]["run"] = run
    prediction = predict(snapshot, Policy(scope=scope))
    titles = [section.title for section in prediction_sections(snapshot, prediction)]
    assert "Why nothing is merged yet" not in titles


def test_where_much_is_saved_there_is_no_reason() -> None:
    snapshot = fork_server()
    assert why(snapshot) == []
    titles = [section.title for section in prediction_sections(snapshot, predict(snapshot))]
    assert "Why so little" not in titles


def test_all_differ() -> None:
    assert why(system([Process("a", [Area(OWN)])])) == [
        "All pages have a content that no other page has."
    ]
    some = why(system([Process("a", [Area([*OWN, 7, 7])])]))
    assert some == ["1.6 MiB of the pages have a content that no other page has."]


def test_what_never_takes_part_comes_by_size() -> None:
    areas = [
        Area(OWN),
        Area([7] * 500, excluded_by="VM_PFNMAP"),
        Area([7] * 5, excluded_by="VM_IO"),
        Area([7] * 1, excluded_by="VM_DROPPABLE"),
    ]
    first, second = why(system([Process("a", areas)]))
    assert first == "2.0 MiB is in VMAs that never take part: VM_PFNMAP."
    assert second.startswith("1.6 MiB of the pages")


def test_shared_by_fork_already() -> None:
    frames = [f"f{n}" for n in range(400)]
    workers = [Process("w", [Area(OWN, frames=frames)]) for _ in range(3)]
    forked, single = why(system([*workers, Process("x", [Area(OWN[:1])])]))
    assert forked == "3.1 MiB is shared by fork already, without KSM."
    assert single == "1.6 MiB of the pages have a content that no other page has."


def test_swapped_out_and_guests_in_shared_memory() -> None:
    snapshot = system(
        [
            Process("qemu-system-x86", [Area([1, 2]), Area([], excluded_by="VM_SHARED")]),
            Process("a", [Area(OWN)]),
        ]
    )
    vmas = snapshot.vmas.copy()
    shared = vmas["excluded_by"] == "VM_SHARED"
    vmas.loc[shared, "end"] = vmas.loc[shared, "start"] + (4 << 30)
    vmas.loc[vmas["excluded_by"].isna(), "swap_pages"] = 300
    guest, *_, swap = why(replace(snapshot, vmas=vmas))
    assert guest.startswith("4.0 GiB mapped by 1 virtual machine is shared memory (memfd")
    assert "2.3 MiB is swapped out" in " ".join([guest, *_, swap])


@pytest.mark.parametrize("listed", [True, False])
def test_shared_memory_that_was_opted_in(listed: bool) -> None:
    """Two map the same, of which a part counts once; a file's pages are no such memory.

    ``listed``: ksmd's list is known, as it is not from /proc.
    """
    areas = [Area([], name="/memfd:pool (deleted)", excluded_by="VM_SHARED")]
    workers = [Process("w", [Area([n], mergeable=True), *areas]) for n in range(2)]
    logger = Process("l", [Area([3], mergeable=True), Area([], "/log", excluded_by="VM_SHARED")])
    snapshot = system([*workers, logger, Process("a", [Area(OWN)])])
    vmas = snapshot.vmas.copy()
    shared = vmas["excluded_by"] == "VM_SHARED"
    vmas.loc[shared, "end"] = vmas.loc[shared, "start"] + (2 << 30)
    processes = snapshot.processes
    if not listed:
        nulls = [None] * len(processes)
        processes = processes.assign(
            scan_order=pd.array(nulls, dtype="Int32"), merge_any=pd.array(nulls, dtype="boolean")
        )
    snapshot = replace(snapshot, vmas=vmas, processes=processes)
    first, *others = why(snapshot, Policy(scope="enabled"))
    assert first == (
        "Up to 2.0 GiB of each of 2 processes that opted in is shared memory (MAP_SHARED); "
        "private memory could merge. Opting in reported no error all the same."
    )
    assert not [line for line in others if "shared memory" in line]


@pytest.mark.parametrize(
    ("flag", "line", "words"),
    [
        (
            "VM_SHARED",
            "qemu\0-object\0memory-backend-memfd,id=m,size=4G,share=on\0-device\0vhost-user-fs-pci,tag=a",
            "memory (memory-backend-memfd, share=on, vhost-user-fs);",
        ),
        (
            "VM_SHARED",
            'qemu\0-object\0{"qom-type":"memory-backend-file","share":true}',
            'memory ("share":true, memory-backend-file);',
        ),
        ("VM_SHARED", "cloud-hypervisor --memory size=4G,shared=on --fs tag=a", "(shared=on);"),
        ("VM_HUGETLB", "qemu\0-mem-path\0/dev/hugepages\0-m\x004G", "(mem-path /dev/hugepages);"),
        ("VM_HUGETLB", "cloud-hypervisor --memory size=4G,hugepages=on", "(hugepages=on);"),
        ("VM_HUGETLB", "qemu -m 4G", "(mem-path on hugetlbfs, hugetlb=on);"),
    ],
)
def test_what_makes_the_memory_of_a_guest_so(flag: str, line: str, words: str) -> None:
    snapshot = system(
        [Process("qemu-kvm", [Area([], excluded_by=flag)]), Process("a", [Area(OWN)])]
    )
    vmas, processes = snapshot.vmas.copy(), snapshot.processes.copy()
    large = vmas["excluded_by"] == flag
    vmas.loc[large, "end"] = vmas.loc[large, "start"] + (4 << 30)
    processes.loc[0, "cmdline"] = line
    assert words in why(replace(snapshot, vmas=vmas, processes=processes))[0]


def test_guests_in_hugetlb_memory() -> None:
    guests = [Process("qemu-kvm", [Area([], excluded_by="VM_HUGETLB")]) for _ in range(3)]
    snapshot = system([*guests, Process("a", [Area(OWN)])])
    vmas = snapshot.vmas.copy()
    huge = vmas["excluded_by"] == "VM_HUGETLB"
    vmas.loc[huge, "end"] = vmas.loc[huge, "start"] + (1 << 30)
    first, second = why(replace(snapshot, vmas=vmas))
    assert first == (
        "3.0 GiB mapped by 3 virtual machines is hugetlb memory (mem-path on hugetlbfs, "
        "hugetlb=on); without it, it could merge."
    )
    assert second == "All pages have a content that no other page has."


def test_pages_that_keep_changing() -> None:
    snapshot = system([Process("a", [Area([7] * 400, mergeable=True)])])
    flags = snapshot.mappings["flags"].to_numpy() | np.uint8(MappingFlag.COMPARED)
    still = snapshot.mappings.assign(flags=flags)
    assert why(replace(snapshot, mappings=still)) == []  # all but one page becomes free
    changing = snapshot.mappings.assign(flags=flags | np.uint8(MappingFlag.CHANGED))
    info = snapshot.info | {"passes": {"count": 2, "interval_seconds": 30.0}}
    reason, *others = why(replace(snapshot, mappings=changing, info=info))
    assert reason == "400 of the pages that ksmd would visit keep changing: they never merge."
    assert others == []


@pytest.mark.parametrize(("pins", "flags"), [(1, ANON), (0, ANON), (1, PASSING)])
def test_what_is_pinned(pins: int, flags: FrameFlag) -> None:
    """As a guest's memory with a device of the host; a lock that somebody holds passes."""
    made = System("6.12")
    made.process(*small(*[5] * 512, pins=pins, flags=flags))
    made.process(*small(*OWN))
    found = why(made.snapshot())
    words = "2.0 MiB is equal to other memory, but pinned, as by VFIO, RDMA or io_uring: it merges"
    assert [reason.startswith(words) for reason in found] == (
        [True, False] if pins and flags == ANON else []
    )


def test_a_scan_of_days_is_named() -> None:
    snapshot = system([Process("a", [Area(OWN)])], pages_to_scan=1, sleep_millisecs=400_000)
    assert why(snapshot)[-1].startswith("With pages_to_scan 1 and sleep_millisecs 400000 one full")
    assert "44 h" in why(snapshot)[-1]


def test_what_ksm_saves_already_is_said_and_not_condemned() -> None:
    snapshot = merged(5).snapshot()
    ksm = snapshot.info["ksm"] | {"counters": {"pages_sharing": 4}}
    snapshot = replace(snapshot, info=snapshot.info | {"ksm": ksm})
    policy = Policy(scope="enabled")
    prediction = predict(snapshot, policy)
    saved = savings(snapshot, prediction)
    assert saved.merged_now_bytes == 4 * 4096
    text = verdict(policy, saved, prediction.coverage)
    assert "KSM would free nothing more: it saves 16.0 KiB now" in text
    assert "Not worth turning on" not in text
    assert why(snapshot, policy) == []
    other = predict(snapshot, replace(policy, max_page_sharing=2))  # all is unmerged first
    assert savings(snapshot, other).merged_now_bytes == 0
    assert other.physical["frames_before"] == 5


def test_records_that_fork_counts_once_more_are_there_once() -> None:
    snapshot = system(
        [Process("a", [Area([*range(1000, 1100)], mergeable=True)]) for _ in range(3)]
    )
    processes = snapshot.processes.assign(ksm_rmap_items=[100, 200, 200])
    ksm = snapshot.info["ksm"] | {"counters": {"ksm_rmap_items": 300}}
    found = predict(replace(snapshot, processes=processes, info=snapshot.info | {"ksm": ksm}))
    assert found.physical["rmap_items_bytes"] == 5 * 4096
    assert found.physical["overhead_now_bytes"] == (5 + 1) * 4096  # with the mm slots


def test_records_that_are_there_cost_nothing_again_where_only_the_system_counts_them() -> None:
    snapshot = system([Process("a", [Area([7] * 100, mergeable=True)])])
    processes = snapshot.processes.assign(ksm_rmap_items=pd.array([None], dtype="Int64"))
    counters = {"pages_shared": 1, "pages_sharing": 98, "pages_volatile": 1}
    ksm = snapshot.info["ksm"] | {"counters": counters}
    info = snapshot.info | {"ksm": ksm}
    physical = predict(replace(snapshot, processes=processes, info=info)).physical
    assert physical["rmap_items_bytes"] == 2 * 4096
    assert physical["mm_slots_bytes"] == 4096
    assert physical["overhead_now_bytes"] == 3 * 4096
