"""Who takes part, what is said about it, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.errors import CannotAnswerError, UsageError
from estimator.ksm.contents import _by_hash
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Outcome
from estimator.ksm.upper_bound import upper_bound
from estimator.report import as_json
from estimator.report.as_json import prediction_json, prediction_json_parts
from estimator.snapshot.flags import UNKNOWN_NODE, FrameFlag, MappingFlag
from tests.synthetic import Frame, System, Vma, folio, small

ENABLED = Policy(scope="enabled")


def two_cgroups() -> System:
    system = System()
    system.process(*small(1, 2), comm="web", cgroup="/system.slice/web.service", uid=33)
    system.process(*small(1, 2), comm="web", cgroup="/system.slice/web.service/worker", uid=33)
    system.process(*small(1, 2), comm="db", cgroup="/system.slice/db.service", uid=70)
    return system


@pytest.mark.parametrize(
    ("selector", "pids"),
    [
        ({"pids": (100,)}, [100]),
        ({"pids": (100, 102)}, [100, 102]),
        ({"comms": ("web",)}, [100, 101]),
        ({"cgroups": ("/system.slice/web.service",)}, [100, 101]),
        ({"cgroups": ("/system.slice/web.service/",)}, [100, 101]),
        ({"pids": (101, 102), "cgroups": ("/system.slice/web.service",)}, [101]),
        ({"pids": (101, 102), "comms": ("web",)}, [101]),
        ({"pids": (101, 102), "uids": (33,)}, [101]),
        ({"comms": ("web",), "cgroups": ("/system.slice/web.service/worker",)}, [101]),
        ({"cgroups": ("/",)}, [100, 101, 102]),
        ({"cgroups": ("/system.slice/web.service/worker",)}, [101]),
        ({"uids": (70,)}, [102]),
        ({"comms": ("web",), "pids": (101, 102)}, [101]),
        ({"comms": ("w*",)}, [100, 101]),
        ({"comms": ("?b",)}, [102]),
        ({"cgroups": ("system.slice/web.service",)}, [100, 101]),
        ({"cgroups": ("system.slice/[dw]*.service",)}, [100, 101, 102]),
        ({"cgroups": ("/*/w?b.service",)}, [100, 101]),
        ({"cgroups": ("*/worker",)}, [101]),
    ],
)
def test_selection(selector: dict[str, Any], pids: list[int]) -> None:
    found = predict(two_cgroups().snapshot(), Policy(scope="enabled", **selector))
    assert found.processes["pid"].tolist() == pids
    assert found.counters["ksm_rmap_items"] == 2 * len(pids)
    assert found.counters["pages_sharing"] == 2 * (len(pids) - 1)
    assert found.vmas["pid"].unique().tolist() == pids


@pytest.mark.parametrize(
    ("selector", "named"),
    [
        ({"pids": (99,)}, "it has pid 100, 101, 102"),
        ({"comms": ("wed",)}, "it has comm web"),
        ({"comms": ("W*",)}, "it has comm"),
        ({"comms": ("we",)}, "it has comm web"),
        ({"cgroups": ("",)}, "the root, with all below it, is /"),
        ({"cgroups": ("/system.slice/webs",)}, "/system.slice/web.service"),
        ({"uids": (0,)}, "it has uid 33, 70"),
        ({"comms": ("web",), "uids": (70,)}, "at once"),
    ],
)
def test_selecting_nothing_names_what_exists(selector: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        predict(two_cgroups().snapshot(), Policy(**selector))


def test_a_name_that_looks_like_a_pattern_is_found_by_itself() -> None:
    system = two_cgroups()
    system.process(*small(1), comm="[db]", cgroup="/a[b]/c")
    for policy in (Policy(comms=("[db]",)), Policy(cgroups=("/a[b]",))):
        assert predict(system.snapshot(), policy).processes["comm"].tolist() == ["[db]"]


def test_a_shared_mm_is_selected_by_any_of_its_thread_groups() -> None:
    system = two_cgroups()
    system.processes[2].sharing_pids = [500]
    found = predict(system.snapshot(), Policy(pids=(500,)))
    assert found.processes["pid"].tolist() == [102]
    assert found.processes["sharing_pids"].tolist() == [(500,)]


def test_a_shared_mm_is_found_under_each_of_its_pids_in_json() -> None:
    system = two_cgroups()
    system.processes[1].sharing_pids = [500, 501]
    prediction = predict(system.snapshot(), Policy())
    for answer in (
        prediction_json(prediction),
        json.loads(b"".join(prediction_json_parts(prediction))),
    ):
        pids = {p["pid"]: list(p["sharing_pids"]) for p in answer["processes"]}
        assert pids == {100: [], 101: [500, 501], 102: []}


def half_enabled() -> System:
    system = System()
    system.process(*small(1), mergeable=True)
    process = system.process()
    process.map(small(1), mergeable=False, name="[stack]")
    process.map(small(1, 1), mergeable=False, excluded_by="VM_SHARED")
    process.map(small(), mergeable=False, has_anon_vma=False)
    system.process(*small(1), listed=False, mergeable=False)
    return system


def test_scope_enabled_takes_mergeable_vmas_of_listed_processes() -> None:
    found = predict(half_enabled().snapshot(), ENABLED)
    assert found.counters["ksm_rmap_items"] == 1
    assert found.counters["pages_unshared"] == 1
    assert found.excluded.to_dict("records") == [
        {"excluded_by": "its mm is not on ksmd's list", "vmas": 1, "anonymous_pages": 1},
        {"excluded_by": "not VM_MERGEABLE", "vmas": 3, "anonymous_pages": 3},
    ]


def test_scope_all_takes_every_compatible_vma_of_every_process() -> None:
    found = predict(half_enabled().snapshot(), Policy(scope="all"))
    assert found.counters["pages_sharing"] == 2
    assert found.vmas["ksm_merging_pages"].tolist() == [1, 1, 0, 0, 1]
    assert found.excluded.to_dict("records") == [
        {"excluded_by": "VM_SHARED", "vmas": 1, "anonymous_pages": 2}
    ]


def test_other_mappings_keep_their_frame() -> None:
    system = System()
    shared = small(1)
    system.process(*shared)
    system.process(*shared, mergeable=False)
    system.process(*small(1))
    found = predict(system.snapshot(), ENABLED)
    assert found.counters["pages_sharing"] == 1
    assert found.physical["frames_freed"] == 0


def test_who_else_maps_the_ksm_page_shows_in_smaps() -> None:
    system = System()
    system.process(*small(1))
    shared = small(1)
    system.process(*shared)
    system.process(*shared, mergeable=False)
    found = predict(system.snapshot(), ENABLED)
    assert found.vmas["smaps_ksm_pages"].tolist() == [1, 1, 1]
    assert found.vmas["ksm_merging_pages"].tolist() == [1, 1, 0]


def test_the_last_item_in_the_scan_is_left_over() -> None:
    system = System(max_page_sharing=2)
    for _ in range(5):
        system.process(*small(7))
    found = predict(system.snapshot(), ENABLED)
    assert found.vmas["pages_unshared"].tolist() == [0, 0, 0, 0, 1]
    assert found.stable_node.tolist() == [1, 1, 3, 3, -1]


def test_pieces_that_nobody_maps_are_free_after_a_split() -> None:
    system = System()
    system.process(*folio([7, *range(20, 35)])[:6])
    system.process(*folio([*range(40, 56)])[:6])
    system.process(*small(7))
    found = predict(system.snapshot(), ENABLED)
    assert found.physical["frames_before"] == 6 + 6 + 1 + 2 * 10
    assert found.physical["frames_freed"] == 1 + 10


def test_unknown_pages_are_in_no_counter() -> None:
    system = System()
    system.process(*small(1, None, None), swap_pages=3, unknown_pages=5)
    system.process(*small(1))
    found = predict(system.snapshot(), ENABLED)
    assert found.counters["ksm_rmap_items"] == 2
    assert found.coverage.unknown_pages == 2
    assert found.coverage.unknown_by_reason == {"excluded": 2}
    assert found.coverage.candidate_pages == 4
    assert found.coverage.swap_pages == 3
    assert found.coverage.page_table_missing_pages == 5
    assert found.coverage.pages_sharing_at_most == 8
    assert found.processes["unknown_pages"].tolist() == [2, 0]
    assert "2 of 4 candidate mappings could not be read (2 excluded)" in found.warnings[0]


def test_nothing_readable_can_not_be_answered() -> None:
    system = System()
    system.process(*small(None, None))
    with pytest.raises(CannotAnswerError, match="no page of any process could be read"):
        predict(system.snapshot(), ENABLED)


def test_no_candidates_at_all() -> None:
    system = System()
    system.process()
    found = predict(system.snapshot(), ENABLED)
    assert set(found.counters.values()) == {0}
    assert found.coverage.hashed_share is None


@pytest.mark.parametrize(
    ("section", "key", "answer"),
    [
        ("features", "split_maps_zero_page", "zero-filled pieces of huge pages"),
        ("features", "smart_scan", "pages_unshared"),
        ("sizes", "ksm_rmap_item", "no saving"),
        ("ksm", "use_zero_pages", "use_zero_pages"),
        ("features", None, "how this kernel's KSM behaves"),
    ],
)
def test_a_missing_fact_names_the_missing_answer(
    section: str, key: str | None, answer: str
) -> None:
    snapshot = two_cgroups().snapshot()
    info = {name: value for name, value in snapshot.info.items() if name != section or key}
    if key:
        info[section] = {name: v for name, v in info[section].items() if name != key}
    with pytest.raises(CannotAnswerError, match=answer):
        predict(replace(snapshot, info=info), ENABLED)


def test_json_holds_exact_integers() -> None:
    found = prediction_json(predict(two_cgroups().snapshot(), ENABLED))
    text = json.dumps(found)
    assert json.dumps(json.loads(text)) == text
    added = found["physical"]["overhead_bytes"] - found["physical"]["overhead_now_bytes"]
    assert added == 2 * 4096  # items and a stable node; mm slots are there
    assert found["processes"][0] == {
        "pid": 100,
        "comm": "web",
        "cgroup": "/system.slice/web.service",
        "uid": 33,
        "sharing_pids": (),
        "ksm_rmap_items": 2,
        "ksm_merging_pages": 2,
        "ksm_zero_pages": 0,
        "pages_unshared": 0,
        "pages_volatile": 0,
        "smaps_ksm_pages": 2,
        "unknown_pages": 0,
        "ksm_process_profit": 2 * 4096 - 2 * 64,
        "unit": "web.service",
        "scanned_pages": 2,
        "saved_pages": round(4 / 3, 6),
        "net_bytes": round((4 * 4096 - added) / 3, 6),
    }
    assert [c["ksm_rmap_items"] for c in found["cgroups"]] == [2, 2, 2]


def test_mapped_read_only_pages_merge_although_they_are_pinned() -> None:
    system = System()
    for _ in range(2):
        system.process(*small(7, pins=1), flags=0)
    assert predict(system.snapshot(), ENABLED).counters["pages_sharing"] == 1
    for frame in (f for p in system.processes for f, _ in p.vmas[0].pages.values()):
        frame.flags |= FrameFlag.ANON_EXCLUSIVE
    assert predict(system.snapshot(), ENABLED).counters["pages_sharing"] == 0


def test_a_page_in_an_lru_batch_is_not_pinned() -> None:
    system = System()
    for _ in range(2):
        system.process(*small(7, pins=1, flags=FrameFlag.SWAPBACKED))
    assert predict(system.snapshot(), ENABLED).counters["pages_sharing"] == 1


def test_two_references_more_are_no_lru_batch() -> None:
    system = System()
    for _ in range(2):
        system.process(*small(7, pins=2, flags=FrameFlag.SWAPBACKED))
    assert predict(system.snapshot(), ENABLED).counters["pages_sharing"] == 0


def test_swap_cache_is_no_pin() -> None:
    system = System()
    flags = FrameFlag.LRU | FrameFlag.SWAPCACHE
    system.processes_with(small(7, flags=flags), folio([7, *range(20, 35)], flags=flags))
    snapshot = system.snapshot()
    assert predict(snapshot, ENABLED).counters["pages_sharing"] == 1
    large = (snapshot.frames["flags"] & int(FrameFlag.LARGE)) != 0
    mapcount = snapshot.frames["folio_mapcount"].mask(large, -1)
    of_procfs = snapshot.frames.assign(refcount=np.int32(-1), folio_mapcount=mapcount)
    assert predict(replace(snapshot, frames=of_procfs), ENABLED).counters["pages_sharing"] == 1


@pytest.mark.parametrize("scanned", [True, False])
def test_prot_none_pages_where_the_walker_does_not_find_them(scanned: bool) -> None:
    system = System("6.1")
    system.features |= {"scans_prot_none": scanned, "prot_none_blocks_tree": False}
    for _ in range(2):
        system.process(*small(7), flags=MappingFlag.PROT_NONE)
    assert predict(system.snapshot(), ENABLED).counters["ksm_rmap_items"] == 2 * scanned


def test_prot_none_hides_only_its_own_content_when_it_is_not_first() -> None:
    system = System("6.1")
    system.process(*small(1, 2))
    system.process(*small(3), flags=MappingFlag.PROT_NONE)
    system.process(*small(1, 2, 3))
    found = predict(system.snapshot(), ENABLED)
    assert found.counters["pages_sharing"] == 2
    assert found.counters["pages_volatile"] == 1
    assert any("PROT_NONE" in text for text in found.warnings)


def test_pages_on_unknown_nodes_are_not_taken_to_be_on_one() -> None:
    system = System()
    system.process(*small(1, node=UNKNOWN_NODE))
    system.process(*small(1, node=UNKNOWN_NODE))
    assert predict(system.snapshot(), ENABLED).counters["pages_sharing"] == 1
    with pytest.raises(CannotAnswerError, match="the NUMA node of 2 frames is not known"):
        predict(system.snapshot(), replace(ENABLED, merge_across_nodes=False))


def merged(copies: int, **ksm: Any) -> System:
    system = System(**ksm)
    page = Frame(7)
    system.stable_node(page)
    for _ in range(copies):
        system.process(page, flags=MappingFlag.MERGED)
    return system


def test_what_is_merged_already_stays() -> None:
    found = predict(merged(4).snapshot(), ENABLED)
    assert found.counters["pages_shared"] == 1
    assert found.counters["pages_sharing"] == 3
    assert found.physical["frames_freed"] == 0


def test_another_limit_starts_from_unmerged_pages() -> None:
    policy = replace(ENABLED, max_page_sharing=2)
    found = predict(merged(5).snapshot(), policy)
    assert found.counters["pages_shared"] == 2
    assert found.counters["pages_sharing"] == 2
    assert found.counters["pages_unshared"] == 1
    assert len(found.content) == 1
    assert any("echo 2" in text for text in found.warnings)


def test_partly_filled_nodes_take_what_fits() -> None:
    system = merged(3, max_page_sharing=4)
    for _ in range(3):
        system.process(*small(7))
    found = predict(system.snapshot(), ENABLED)
    assert found.counters["pages_shared"] == 2
    assert found.counters["pages_sharing"] == 4
    assert found.counters["stable_node_dups"] == 2


@pytest.mark.parametrize(
    ("kernel", "outcome"), [("6.12", Outcome.ZERO_PAGE), ("6.1", Outcome.MERGED)]
)
@pytest.mark.parametrize("items", [1, 0])
def test_zero_page_or_stable_node_of_zeroes(kernel: str, outcome: Outcome, items: int) -> None:
    """Which of the two ksmd tries first, where a node of zero-filled pages is from before.

    A node without items, whose page is still mapped by a fork, takes in nobody before that fork.
    """
    system = System(kernel, use_zero_pages=1)
    merged = Frame(0)
    system.stable_node(merged)
    system.process(*small(0))
    system.process(merged, flags=MappingFlag.MERGED if items else MappingFlag.DIRTY)
    found = predict(system.snapshot(), ENABLED)
    assert found.outcome.tolist() == [outcome, Outcome.MERGED]


def test_pages_that_change_between_two_snapshots_never_merge() -> None:
    def system(second: int) -> System:
        made = System()
        made.process(*small(1, second, 3))
        made.process(*small(1, 2, 3))
        return made

    earlier, later = system(2).snapshot(), system(9).snapshot()
    found = predict(earlier, ENABLED, later=later)
    assert found.outcome.tolist() == [
        Outcome.MERGED,
        Outcome.VOLATILE,
        Outcome.MERGED,
        Outcome.MERGED,
        Outcome.UNSHARED,
        Outcome.MERGED,
    ]
    assert found.counters["pages_volatile"] == 1
    assert found.coverage.changed_pages == 1
    assert found.coverage.candidate_pages == 6
    assert found.coverage.compared_pages == 6
    assert "6 of 6 candidate mappings could be compared" in found.warnings[-1]
    assert ", 1 changed" in found.warnings[-1]
    assert "not known" not in found.warnings[-1]
    assert "upper bounds" in predict(earlier, ENABLED).warnings[-1]


def test_a_process_that_went_away_is_not_steady() -> None:
    earlier = two_cgroups().snapshot()
    later = two_cgroups()
    later.processes = later.processes[1:]
    for process in later.processes:
        process.vmas[0].pages = dict(enumerate((f, 0) for f in small(8, 9)))
    shifted = later.snapshot()
    shifted.processes["start_time_ns"] = earlier.processes["start_time_ns"][1:].to_numpy()
    shifted.vmas["start"] = earlier.vmas["start"][1:].to_numpy()
    found = predict(earlier, ENABLED, later=shifted)
    assert found.coverage.changed_pages == 4
    assert "4 of 6 candidate mappings could be compared" in found.warnings[-1]
    assert "others keep changing is not known" in found.warnings[-1]


def test_snapshots_hashed_differently_can_not_be_compared() -> None:
    earlier, later = two_cgroups().snapshot(), two_cgroups().snapshot()
    later.info["hash"] = {"name": "test", "seed": 1}
    with pytest.raises(UsageError, match="different seeds"):
        predict(earlier, ENABLED, later=later)


@pytest.mark.parametrize(
    ("swapped", "merges", "told"), [(0, True, 0), (1, True, 1), (9, True, 2), (1, False, 0)]
)
def test_frames_that_swap_may_keep_are_told(swapped: int, merges: bool, told: int) -> None:
    system = System()
    flags = FrameFlag.LRU | FrameFlag.SWAPBACKED | FrameFlag.SWAPCACHE
    contents = [5, 5, 5] if merges else [6, 7, 8]
    system.process(*small(5))
    system.process(*small(*contents, flags=flags), swap_pages=swapped)
    system.process(*small(9, flags=flags))
    texts = " ".join(predict(system.snapshot(), ENABLED).warnings)
    assert ("in the swap cache" in texts) == bool(told)
    assert f"up to {told} may stay" in texts or not told


def test_warnings_tell_what_can_go_wrong() -> None:
    system = System("6.1", max_page_sharing=2)
    system.fork(system.process(*small(7), listed=False), 3)
    system.process(*small(7), listed=False)
    texts = " ".join(predict(system.snapshot(), Policy(scope="all")).warnings)
    assert "decides for 1 content on 5 mappings" in texts
    assert "another order" in texts
    assert "DAMON" not in texts
    snapshot = system.snapshot()
    snapshot.info["damon_runs"] = True
    assert "DAMON is running" in " ".join(predict(snapshot, ENABLED).warnings)
    assert "no prctl" in texts


def test_no_page_is_equal_to_a_zero_page_that_is_flagged_as_tagged() -> None:
    system = System(use_zero_pages=1)
    for _ in range(3):
        system.process(*small(0, 0, 7))
    snapshot = system.snapshot()
    assert predict(snapshot, ENABLED).counters["ksm_zero_pages"] == 6
    snapshot.info["zero_page_tagged"] = True
    found = predict(snapshot, ENABLED)
    assert found.counters["ksm_zero_pages"] == 0
    assert (found.counters["pages_shared"], found.counters["pages_sharing"]) == (2, 7)
    assert any("use_zero_pages does nothing here" in text for text in found.warnings)
    off = predict(snapshot, replace(ENABLED, use_zero_pages=False))
    assert off.counters == found.counters
    assert not any("use_zero_pages does" in text for text in off.warnings)


@pytest.mark.parametrize(
    ("skips", "last_page", "mergeable", "told"),
    [
        (False, 99_999_999, True, True),
        (True, 99_999_999, True, False),  # since the range walk of 6.18
        (False, 20, True, False),
        (False, 99_999_999, False, False),
    ],
)
def test_addresses_that_ksmd_looks_up_in_vain_are_told(
    skips: bool, last_page: int, mergeable: bool, told: bool
) -> None:
    system = System()
    system.features["skips_holes"] = skips
    process = system.process(*small(7))
    pages = {index: (Frame(7), int(MappingFlag.DIRTY)) for index in (0, last_page)}
    process.vmas.append(Vma(pages, mergeable=mergeable))
    snapshot = system.snapshot()
    texts = predict(snapshot, ENABLED).warnings
    said = "99,999,998 addresses (381 GiB) besides 3 candidate pages"
    assert any(said in text for text in texts) == told
    assert any("mmap_lock" in text for text in texts) == told
    without = upper_bound(snapshot, ENABLED).warnings
    assert any("mmap_lock" in text for text in without) == told


@pytest.mark.parametrize(
    ("release", "by_release", "said"),
    [
        ("5.14.0-503.el9.x86_64", ["checksum_before_stable_tree", "advisor"], True),
        ("6.4.0-150600.23-default", ["checksum_before_stable_tree"], True),
        ("5.14.0-503.el9.x86_64", ["advisor"], False),
        ("5.14.0-503.el9.x86_64", [], False),
        ("6.12.9", ["checksum_before_stable_tree"], False),
    ],
)
def test_a_release_that_says_less_than_the_kernel_has_is_named(
    release: str, by_release: list[str], said: bool
) -> None:
    system = System()
    system.process(*small(1))
    snapshot = system.snapshot()
    snapshot.info["kernel"]["release"] = release
    snapshot.info["features_by_release"] = by_release
    texts = " ".join(predict(snapshot, ENABLED).warnings)
    told = f"Only the release ({release}) tells the order in which pages join stable nodes; but"
    assert (told in texts) == said


@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 4096])
def test_json_as_text_says_the_same(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(as_json, "_ROWS_AT_ONCE", rows_at_once)
    system = two_cgroups()
    system.process(*small(7), comm='a "quoted" \\ /é\x01')
    system.processes[-1].map(small(8, None), name="/usr/lib/a\\/b.so")
    found = predict(system.snapshot(), Policy(scope="all"))
    values = prediction_json(found)
    assert json.loads(b"".join(prediction_json_parts(found))) == json.loads(json.dumps(values))
    assert "/usr/lib/a\\/b.so" in {vma["name"] for vma in values["vmas"]}


@settings(deadline=None)
@given(st.lists(st.one_of(st.sampled_from([3, 4, 5, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1))))
def test_hashes_are_put_in_order_also_where_their_upper_bits_are_equal(values: list[int]) -> None:
    hashes = np.array(values, dtype=np.uint64)
    met = np.random.default_rng(len(values)).permutation(len(values)).astype(np.int32)
    known = np.ones(len(values), np.bool_)
    order, new = _by_hash(hashes, known, np.array_split(met, 3))
    assert order.tolist() == met[np.argsort(hashes[met], kind="stable")].tolist()
    in_order = sorted(values)
    assert new.tolist() == [n == 0 or in_order[n - 1] != v for n, v in enumerate(in_order)]


def test_many_self_splitting_huge_pages_take_one_scan_each() -> None:
    system = System()
    process = system.process()
    for _ in range(300):
        process.map(folio([0, 0, *system.unique(2)]))
    found = predict(system.snapshot(), ENABLED)
    assert found.counters["pages_unshared"] == 600
    assert found.counters["ksm_rmap_items"] == 600
    assert found.scans == 302
    assert found.physical["frames_freed"] == 600
