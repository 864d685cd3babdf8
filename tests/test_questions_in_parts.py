"""Other questions than how much becomes free, worked out in parts: the same answer as at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from estimator import arrays
from estimator.advice.why import why
from estimator.ksm.as_if import as_if
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Outcome
from estimator.report.whatif_sections import why_json
from estimator.snapshot.flags import FrameKind, MappingFlag
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from tests.commands import estimator, with_least_memory
from tests.synthetic import Frame, System, small
from tests.systems import fork_server
from tests.test_accounting import worn
from tests.test_as_if import hide
from tests.test_hash_parts import Rooms, same, story
from tests.test_seen_nodes import without_tree

Scope = Literal["all", "enabled"]
MANY = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))


@MANY
@given(worn(), st.sampled_from([0, 5, 40]), st.booleans(), st.booleans())
def test_why(snapshot: Snapshot, most: int, use_zero_pages: bool, of_one: bool) -> None:
    policy = Policy(scope="enabled", use_zero_pages=use_zero_pages)
    whom = Policy(pids=(int(snapshot.processes["pid"].iloc[0]),)) if of_one else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_PIECE_ROWS", 16)
        whole = why(snapshot, policy, whom=whom)
        parts = why(snapshot, policy, whom=whom, room=Rooms(most).room())
    assert json.dumps(why_json(parts)) == json.dumps(why_json(whole))


def _looks(snapshot: Snapshot, changed: list[bool], order: int) -> tuple[Snapshot, Snapshot]:
    """``snapshot`` and a second look, where some frames have other bytes and some are not known."""
    info = snapshot.info | {"collected_at": "2026-01-01T00:00:00+00:00", "boot_id": "0a1b"}
    later = info | {"collected_at": "2026-01-01T00:00:30+00:00"}
    frames = snapshot.frames.copy()
    other = np.resize(np.array([*changed, False, False, True]), len(frames))
    hashes = frames["hash"].to_numpy(np.uint64, na_value=0)
    frames["hash"] = pd.array(np.where(other, ~hashes, hashes), dtype="UInt64")
    frames.loc[frames["unknown"] != 0, "hash"] = pd.NA
    elsewhere = np.uint64(1 << 40)  # or it might be the very same picture
    frames["pfn"] = frames["pfn"].to_numpy() + elsewhere
    pid = np.roll(snapshot.processes["pid"].to_numpy(), order)  # the processes in another order
    processes = snapshot.processes.assign(pid=pid)
    return replace(snapshot, info=info), replace(
        snapshot, info=later, frames=frames, processes=processes
    )


@MANY
@given(
    worn(),
    st.sampled_from([0, 5, 40]),
    st.lists(st.booleans(), max_size=9),
    st.integers(0, 2),
    st.sampled_from(["all", "enabled"]),
)
def test_two_looks(
    snapshot: Snapshot, most: int, changed: list[bool], order: int, scope: Scope
) -> None:
    first, later = _looks(snapshot, changed, order)
    policy = Policy(scope=scope)
    whole = predict(first, policy, later=later)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_PIECE_ROWS", 16)
        parts = predict(first, policy, later=later, room=Rooms(most).room())
    same(parts, whole)


@MANY
@given(
    worn(),
    st.sampled_from([0, 5, 40]),
    st.sampled_from([None, 2, 300]),
    st.sampled_from([None, True, False]),
    st.booleans(),
)
def test_what_is_merged_already(
    snapshot: Snapshot, most: int, limit: int | None, across: bool | None, read: bool
) -> None:
    """With other settings, so that it is unmerged first; and with a tree that was not read."""
    policy = Policy(scope="enabled", max_page_sharing=limit, merge_across_nodes=across)
    snapshot = snapshot if read else without_tree(snapshot)
    whole = predict(snapshot, policy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_PIECE_ROWS", 16)
        parts = predict(snapshot, policy, room=Rooms(most).room())
    same(parts, whole)
    assert story(parts) == story(whole)


def _behind_prot_none(*, across: bool) -> System:
    """The first page of node 0 can't be seen through, that of node 1 can."""
    system = System("6.1", merge_across_nodes=across)
    system.process(*small(9, 8), flags=MappingFlag.PROT_NONE)
    system.process(*small(*range(20, 40), node=1), *small(*range(20)), *small(1, 2))
    system.process(*small(*range(40)), *small(*range(20, 40), node=1))
    node = Frame(3)
    system.stable_node(node)
    system.process(node, flags=MappingFlag.MERGED)
    return system


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("most", [5, 1000])
def test_pages_that_a_search_can_not_pass(across: bool, most: int) -> None:
    snapshot = _behind_prot_none(across=across).snapshot()
    whole = predict(snapshot)
    outcomes = np.bincount(whole.outcome, minlength=len(Outcome))
    assert outcomes[Outcome.VOLATILE] > 40  # behind the first page
    assert outcomes[Outcome.MERGED] > (2 if across else 40)
    same(predict(snapshot, room=Rooms(most).room()), whole)


def _with_all_that_share(snapshot: Snapshot, vma: int) -> list[int]:
    """The VMA and those that map frames with it, and so on."""
    of_row, frame = (snapshot.mappings[name].to_numpy() for name in ("vma_id", "frame_id"))
    found, before = {vma}, 0
    while len(found) > before:
        before = len(found)
        shared = np.unique(frame[np.isin(of_row, list(found))])
        found |= set(of_row[np.isin(frame, shared)].tolist())
    return sorted(found)


@MANY
@given(
    worn(),
    st.sampled_from([0, 5, 40]),
    st.sampled_from([["private"], ["no-thp"], ["private", "no-thp"]]),
)
def test_memory_read_otherwise(snapshot: Snapshot, most: int, what: list[str]) -> None:
    of_row, frame = (snapshot.mappings[name].to_numpy() for name in ("vma_id", "frame_id"))
    ksm = (snapshot.frames["kind"] == FrameKind.KSM).to_numpy()
    hidden: list[int] = []
    for vma in range(0, len(snapshot.vmas), 2):  # about half of the memory
        more = _with_all_that_share(snapshot, vma)
        hidden += [] if ksm[frame[np.isin(of_row, more)]].any() else more
    hiding = hide(snapshot, hidden)
    room = Rooms(most).room()
    whole = predict(as_if(hiding, what))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_PIECE_ROWS", 16)
        parts = predict(as_if(hiding, what, room.empty), room=room)
    same(parts, whole)


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    """Two looks at one system, as files."""
    server = fork_server()
    server = hide(server, _with_all_that_share(server, len(server.vmas) - 1))
    paths = {name: tmp_path / f"{name}.ksm" for name in ("first", "later")}
    for path, snapshot in zip(paths.values(), _looks(server, [], 1), strict=True):
        write_snapshot(snapshot, path)
    return paths


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    "command",
    [
        "report first --why --comm worker",
        "predict first --and later",
        "predict first --as-if private --and later",
    ],
)
def test_with_the_least_memory_that_is_taken_a_command_says_the_same(
    paths: dict[str, Path], command: str, as_json: bool
) -> None:
    arguments = [str(paths.get(word, word)) for word in command.split()] + ["--json"] * as_json
    whole, parts = estimator(*arguments), with_least_memory(*arguments)
    assert (parts.returncode, parts.stderr) == (whole.returncode, whole.stderr)
    assert parts.stdout == whole.stdout != ""
