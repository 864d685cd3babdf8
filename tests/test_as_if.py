"""--as-if: what is read as if it were private is predicted as if it had been private."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from estimator.advice.whatif import what_if
from estimator.errors import CannotAnswerError, TargetError, UsageError
from estimator.ksm.as_if import as_if
from estimator.ksm.policy import AS_IF, Policy
from estimator.ksm.predict import predict
from estimator.snapshot.checks import check_snapshot
from estimator.snapshot.flags import FrameFlag, FrameKind, MappingFlag
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot, write_snapshot
from tests.commands import estimator
from tests.schemas import check
from tests.synthetic import System, folio, small
from tests.test_upper_bound import without_contents

SHARED, MAYSHARE, HUGETLB, DONTEXPAND = 0x8, 0x80, 0x40_0000, 0x4_0000
RW = 0x3
SERVER, GUEST, FORKED, DAEMON, PLAIN = range(5)  # mm_id
OF_GUEST, OF_DAEMON = 1, 4  # vma_id


def system() -> Snapshot:
    """A server; a guest of two VMAs, forked; a daemon that maps the guest's memory too."""
    made = System("6.12", smart_scan=0)
    made.process(*small(1, 2, 3, 7))
    memory = small(1, 2, 2, 0, *made.unique(3), None)
    guest = made.process(*memory)
    guest.map(small(3, 3), name="[heap]")
    made.process(comm="daemon").map(memory[:5])
    made.process(*small(7, 7, 9), comm="other")
    return snapshot_of(made)


def snapshot_of(made: System) -> Snapshot:
    """With pages of 4 KiB and vm_flags as of private memory."""
    found = made.snapshot()
    info = found.info | {"format_version": 2, "host": "example", "collect_seconds": 1.0}
    flags = found.vmas["vm_flags"].to_numpy() | np.uint64(RW)
    return replace(found, info=info, vmas=found.vmas.assign(vm_flags=flags))


def hide(
    snapshot: Snapshot,
    vmas: Sequence[int],
    kind: FrameKind = FrameKind.SHMEM,
    flags: int = SHARED | MAYSHARE,
    contents: str = "all",
) -> Snapshot:
    """``snapshot`` with what ``vmas`` map as other than anonymous memory."""
    chosen = snapshot.vmas["vma_id"].isin(vmas)
    rows = snapshot.mappings["vma_id"].isin(vmas)
    gone = np.zeros(len(snapshot.frames), np.bool_)
    gone[snapshot.mappings["frame_id"][rows]] = True
    number = np.where(gone, np.cumsum(gone), np.cumsum(~gone)).astype(np.uint32) - np.uint32(1)
    mappings = snapshot.mappings.assign(frame_id=number[snapshot.mappings["frame_id"]])
    others = snapshot.frames[gone].assign(
        kind=np.uint8(kind),
        flags=lambda t: t["flags"].to_numpy() & np.uint32(FrameFlag.ZERO),
        refcount=np.int32(99),
    )
    reason = "VM_HUGETLB" if flags & HUGETLB else "VM_SHARED" if flags & SHARED else None
    open_ = reason is None
    vma_flags = snapshot.vmas["vm_flags"].to_numpy()
    nodes = snapshot.stable_nodes
    return replace(
        snapshot,
        info=snapshot.info | {"contents": contents},
        vmas=snapshot.vmas.assign(
            vm_flags=np.where(
                chosen, vma_flags & ~np.uint64(1 << 31) | np.uint64(flags), vma_flags
            ),
            mergeable=snapshot.vmas["mergeable"] & ~chosen,
            compatible=snapshot.vmas["compatible"] & (~chosen | open_),
            excluded_by=snapshot.vmas["excluded_by"].mask(chosen, reason),
            has_anon_vma=snapshot.vmas["has_anon_vma"] & ~chosen,
        ),
        mappings=mappings[~rows].reset_index(drop=True),
        frames=snapshot.frames[~gone].reset_index(drop=True),
        stable_nodes=nodes.assign(
            frame_id=nodes["frame_id"].map(lambda n: number[n]).astype("UInt32")
        ),
        other_mappings=mappings[rows].reset_index(drop=True),
        other_frames=others.reset_index(drop=True),
    )


def others_of(snapshot: Snapshot) -> tuple[pd.DataFrame, pd.DataFrame]:
    assert snapshot.other_mappings is not None
    assert snapshot.other_frames is not None
    return snapshot.other_mappings, snapshot.other_frames


def numbers(snapshot: Snapshot, policy: Policy | None = None) -> dict[str, Any]:
    found = predict(snapshot, policy)
    return {
        "counters": found.counters,
        "physical": found.physical,
        "outcome": found.outcome.tolist(),
        "node": found.stable_node.tolist(),
        "processes": found.processes.to_dict("list"),
        "excluded": found.excluded.to_dict("list"),
        "coverage": found.coverage,
    }


@pytest.mark.parametrize(
    ("kind", "flags", "contents", "what"),
    [
        (FrameKind.SHMEM, SHARED | MAYSHARE, "all", ["private"]),
        (FrameKind.SHMEM, MAYSHARE, "all", ["private"]),  # read-only
        (FrameKind.HUGETLB, HUGETLB | DONTEXPAND, "all", ["no-hugetlb"]),
        (FrameKind.HUGETLB, HUGETLB | DONTEXPAND | SHARED, "all", ["private", "no-hugetlb"]),
        (FrameKind.FILE, 0, "all,file", ["no-file"]),
        (FrameKind.SHMEM, 0, "all,file", ["no-file"]),
        (FrameKind.FILE, SHARED | MAYSHARE, "all,file", ["private", "no-file"]),
    ],
)
def test_read_as_if_private_it_is_as_if_it_had_been(
    kind: FrameKind, flags: int, contents: str, what: list[str]
) -> None:
    private = system()
    hidden = hide(private, [OF_GUEST, 3], kind, flags, contents)
    check_snapshot("hidden", hidden)
    assert predict(hidden).counters != predict(private).counters
    read = as_if(hidden, what)
    check_snapshot("read", read)
    expected = numbers(private)
    assert numbers(read) == expected
    assert expected["counters"]["pages_sharing"] > 0
    for left_out in what if len(what) > 1 else []:
        only = as_if(hidden, [name for name in what if name != left_out])
        assert predict(only).counters == predict(hidden).counters
    assert read.info["as_if"] == {"what": what, "mappings": 13, "frames": 8}
    assert read.vmas["vm_flags"].tolist()[OF_GUEST] == RW


def test_without_the_question_the_other_tables_change_nothing(tmp_path: Path) -> None:
    hidden = hide(system(), [OF_GUEST, 3])
    bare = replace(hidden, other_mappings=None, other_frames=None)
    bare = replace(bare, info=bare.info | {"contents": "anonymous"})
    for policy in (Policy(), Policy(scope="enabled"), Policy(use_zero_pages=True)):
        assert numbers(hidden, policy) == numbers(bare, policy)
    for name, snapshot in (("with", hidden), ("bare", bare)):
        write_snapshot(snapshot, tmp_path / f"{name}.ksm")
    answers = [
        estimator("predict", tmp_path / f"{n}.ksm", "--json").stdout for n in ("with", "bare")
    ]
    assert answers[0] == answers[1] != ""


def test_stable_nodes_keep_their_frames() -> None:
    made = System("6.12", smart_scan=0)
    made.process(*small(*range(50, 60)))
    page = small(1)[0]
    made.stable_node(page)
    for _ in range(2):
        made.process().map([page], flags=MappingFlag.MERGED)
    made.process(*small(1, 1))
    private = snapshot_of(made)
    read = as_if(hide(private, [0]), ["private"])
    assert numbers(read) == numbers(private)
    assert read.frames["pfn"].tolist() == private.frames["pfn"].tolist()


def test_scope_enabled_takes_who_opted_in_by_prctl() -> None:
    hidden = hide(system(), [OF_GUEST, 3])
    off = predict(as_if(hidden, ["private"]), Policy(scope="enabled"))
    assert off.processes["ksm_rmap_items"].tolist() == [4, 2, 0, 3]
    opted = pd.array([None, True, False, False], dtype="boolean")
    hidden = replace(hidden, processes=hidden.processes.assign(merge_any=opted))
    on = predict(as_if(hidden, ["private"]), Policy(scope="enabled"))
    assert on.processes["ksm_rmap_items"].tolist() == [4, 9, 0, 3]
    assert as_if(hidden, ["private"]).vmas["mergeable"].tolist()[OF_GUEST] is True


def test_what_was_pinned_stays_pinned() -> None:
    hidden = hide(system(), [OF_GUEST, 3])
    assert hidden.other_frames is not None
    pinned = hidden.other_frames.assign(
        flags=hidden.other_frames["flags"].to_numpy() | np.uint32(FrameFlag.PINNED)
    )
    found = predict(as_if(replace(hidden, other_frames=pinned), ["private"]))
    free = predict(as_if(hidden, ["private"]))
    assert free.processes["ksm_merging_pages"].tolist() != [2, 1, 0, 3]
    assert found.physical["frames_freed"] < free.physical["frames_freed"]
    assert found.processes["ksm_merging_pages"][2] == 0


def test_others_that_were_not_found_keep_their_frames() -> None:
    """A process that could not be read maps them as well: the kernel's count says so."""
    hidden = hide(system(), [OF_GUEST, 3])
    assert hidden.other_frames is not None
    counted = hidden.other_frames.assign(mapcount=hidden.other_frames["mapcount"] + np.int32(1))
    found = predict(as_if(replace(hidden, other_frames=counted), ["private"]))
    free = predict(as_if(hidden, ["private"]))
    assert found.counters["pages_sharing"] == free.counters["pages_sharing"]
    assert found.physical["frames_freed"] < free.physical["frames_freed"]


@pytest.mark.parametrize(
    ("flags", "what", "pages"),
    [
        (SHARED, ["private"], 5),
        (SHARED, ["no-hugetlb"], 0),
        (HUGETLB | DONTEXPAND, ["no-hugetlb"], 5),
        (HUGETLB | DONTEXPAND, ["private"], 0),
        (HUGETLB | DONTEXPAND | SHARED, ["private"], 0),
        (HUGETLB | DONTEXPAND | SHARED, ["private", "no-hugetlb"], 5),
        (0, ["private", "no-hugetlb"], 0),
        (0, ["no-file"], 5),
    ],
)
def test_page_tables_that_are_missing_are_unknown_not_empty(
    flags: int, what: list[str], pages: int
) -> None:
    hidden = hide(system(), [OF_GUEST], FrameKind.FILE, flags, "all,file")
    unread = np.where(np.arange(len(hidden.vmas)) == OF_GUEST, 5, 0).astype(np.uint64)
    mappings, frames = others_of(hidden)
    empty = replace(
        hidden,
        vmas=hidden.vmas.assign(unknown_pages=unread),
        other_mappings=mappings.iloc[:0],
        other_frames=frames.iloc[:0],
    )
    assert predict(empty).coverage.page_table_missing_pages == 0
    assert predict(as_if(empty, what)).coverage.page_table_missing_pages == pages


@pytest.mark.parametrize("pins", [0, 1])
@pytest.mark.parametrize("swapcache", [0, FrameFlag.SWAPCACHE])
def test_without_huge_pages_every_piece_is_a_page(pins: int, swapcache: int) -> None:
    def made(huge: bool) -> Snapshot:
        found = System("6.12", smart_scan=0)
        contents = [1, 1, 2, 0, 0, 5, 6, 7]
        flags = FrameFlag.LRU | FrameFlag.SWAPBACKED | swapcache
        facts = {"pins": pins, "flags": flags}
        pieces = folio(contents, **facts) if huge else small(*contents, **facts)
        parent = found.process()
        parent.map(pieces, flags=MappingFlag.DIRTY | MappingFlag.HUGE * huge)
        found.fork(parent)
        found.process(*small(0, 2, 5))
        return snapshot_of(found)

    huge, base = made(True), made(False)
    assert numbers(as_if(huge, ["no-thp"])) == numbers(base)
    assert pins or predict(huge).counters != predict(base).counters
    read = as_if(replace(huge, info=huge.info | {"thp_enabled": "always"}), ["no-thp"])
    assert read.info["thp_enabled"] == "never"
    assert not (read.mappings["flags"].to_numpy() & MappingFlag.HUGE).any()
    assert huge.frames["order"].max() == 3
    assert (huge.mappings["flags"].to_numpy() & MappingFlag.HUGE).any()


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("snapshots")
    hidden = hide(system(), [OF_GUEST, 3])
    found = {
        "all": hidden,
        "anonymous": system(),
        "unread": without_contents(system()),
    }
    for name, snapshot in found.items():
        write_snapshot(snapshot, directory / f"{name}.ksm")
    return {name: directory / f"{name}.ksm" for name in found}


def test_a_snapshot_keeps_its_other_tables(paths: dict[str, Path], tmp_path: Path) -> None:
    mappings, frames = others_of(hide(system(), [OF_GUEST, 3]))
    opened = open_snapshot(paths["all"])
    assert others_of(opened)[0].equals(mappings)
    assert others_of(opened)[1].equals(frames)
    assert open_snapshot(paths["all"], others=False).other_frames is None
    assert open_snapshot(paths["anonymous"]).other_frames is None
    write_snapshot(opened, tmp_path / "a.ksm.tar")
    assert others_of(open_snapshot(tmp_path / "a.ksm.tar"))[1].equals(frames)
    write_snapshot(opened, tmp_path / "b.ksm")
    (tmp_path / "b.ksm" / "other_frames.parquet").unlink()
    with pytest.raises(TargetError, match="other_frames"):
        open_snapshot(tmp_path / "b.ksm")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": np.uint8(FrameKind.ANONYMOUS)}, "not known here"),
        ({"pfn": np.arange(1000, 1008, dtype=np.uint64)}, "not anonymous at once"),
    ],
)
def test_other_tables_are_checked(change: dict[str, Any], words: str) -> None:
    hidden = hide(system(), [OF_GUEST, 3])
    assert hidden.other_frames is not None
    with pytest.raises(TargetError, match=words):
        check_snapshot("x", replace(hidden, other_frames=hidden.other_frames.assign(**change)))
    with pytest.raises(TargetError, match="contents can't be 'all the'"):
        check_snapshot("x", replace(hidden, info=hidden.info | {"contents": "all the"}))


@pytest.mark.parametrize(
    ("snapshot", "what", "words"),
    [
        ("anonymous", "private", "collect again with --contents all"),
        ("anonymous", "no-hugetlb", "it was collected with --contents anonymous"),
        ("all", "no-file", "collect again with --contents all,file"),
        ("unread", "private", "left out of this snapshot (--without-contents)"),
        ("unread", "no-thp", "left out of this snapshot (--without-contents)"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "whatif"])
def test_what_was_not_collected_is_not_guessed(
    command: str, snapshot: str, what: str, words: str, paths: dict[str, Path]
) -> None:
    done = estimator(command, paths[snapshot], "--as-if", what)
    assert (done.returncode, done.stdout) == (5, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_wrong_questions(paths: dict[str, Path]) -> None:
    assert estimator("predict", paths["all"], "--as-if", "free").returncode == 2
    hidden = open_snapshot(paths["all"])
    with pytest.raises(UsageError, match="no-thp"):
        as_if(hidden, ["free"])
    with pytest.raises(UsageError, match="read as if already"):
        as_if(as_if(hidden, ["private"]), ["no-thp"])
    with pytest.raises(UsageError, match="passed over"):
        as_if(open_snapshot(paths["all"], others=False), ["private"])
    with pytest.raises(UsageError, match="not read as if private"):
        predict(hidden, Policy(as_if=("private",)))
    with pytest.raises(CannotAnswerError):
        as_if(open_snapshot(paths["anonymous"]), ["private"])
    assert as_if(hidden, []) is hidden
    done = estimator("collect", "--live", "--contents", "all", "--without-contents", "-o", "x.ksm")
    assert done.returncode == 2
    assert "exclude each other" in done.stderr


def test_the_answer_says_that_it_is_a_what_if(paths: dict[str, Path]) -> None:
    done = estimator(
        "predict", paths["all"], "--as-if", "private", "--as-if", "no-thp", COLUMNS="120"
    )
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    first = "What if shared memory were private and no page were huge? With every process opted in,"
    assert text.startswith(first)
    assert "Asked: --scope all --as-if private --as-if no-thp;" in text
    assert "13 pages that processes map on 8 frames of other than anonymous memory" in text
    assert "what no process has touched through a mapping is not in the numbers" in text
    assert "every piece of a huge page is taken for a page that was written" in text
    assert "prctl" not in text
    done = estimator("predict", paths["all"], "--as-if", "private", "--scope", "enabled")
    assert "madvise leaves no trace" in " ".join(done.stdout.split())
    found = estimator("predict", paths["all"], "--as-if", "private", "--json")
    answer = json.loads(found.stdout)
    check("prediction", answer)
    assert answer["policy"]["as_if"] == ["private"]
    assert answer["counters"] == predict(system()).counters


def test_rows_of_whatif(paths: dict[str, Path]) -> None:
    hidden = open_snapshot(paths["all"])
    found = what_if(hidden, as_if=("private", "no-thp")).table
    plain = what_if(hidden).table
    assert found.iloc[: len(plain)].equals(plain)
    rows = found.iloc[len(plain) :]
    assert rows["name"].tolist() == ["as if private", "as if no-thp", "as if private no-thp"]
    assert not rows["settable"].any()
    assert rows["lost_bytes"].isna().all()
    freed = predict(as_if(hidden, ["private"])).physical["frames_freed"]
    assert rows["frames_freed"].tolist()[0] == freed > rows["frames_freed"].tolist()[1]
    done = estimator("whatif", paths["all"], "--as-if", "private", "--json", "--min-coverage", "0")
    answer = json.loads(done.stdout)
    check("whatif", answer)
    assert answer["policies"][-1]["name"] == "as if private"
    done = estimator(
        "whatif", paths["all"], "--as-if", "private", "--min-coverage", "0", COLUMNS="150"
    )
    assert "as if private *" in done.stdout
    assert "share by fork" in " ".join(done.stdout.split())


def test_every_question_has_words() -> None:
    assert list(AS_IF) == ["private", "no-hugetlb", "no-file", "no-thp"]


def test_ksmd_never_came_to_memory_that_was_not_its_own() -> None:
    """An array that was used before, as of memory that is taken again."""
    hidden = hide(system(), [OF_GUEST])
    hidden.mappings["visits"] = np.uint8(14)
    used = as_if(hidden, ["private"], lambda size, dtype: np.full(size, 1, dtype)).mappings
    added = len(used) - len(hidden.mappings)
    assert added == len(others_of(hidden)[0])
    assert np.bincount(used["visits"]).tolist() == [added, *[0] * 13, len(hidden.mappings)]
