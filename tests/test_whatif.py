"""Policies side by side: each row is what the model says to its question."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from estimator.advice.domains import by_family, by_labels, separated
from estimator.advice.whatif import IDEAL, OTHER, OTHERS, what_if
from estimator.errors import UsageError
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.synthetic import small
from tests.systems import Area, Process, fork_server, system
from tests.test_model_predict import merged


def rows(snapshot: Snapshot, policy: Policy | None = None, **more: object) -> pd.DataFrame:
    return what_if(snapshot, policy, **more).table.set_index("name")  # type: ignore[arg-type]


def test_what_can_be_set_is_what_is_predicted() -> None:
    snapshot = fork_server()
    table = rows(snapshot)
    for name, policy in {
        "as asked": Policy(),
        "as opted in now": Policy(scope="enabled"),
        "use_zero_pages on": Policy(use_zero_pages=True),
        "max_page_sharing 2": Policy(max_page_sharing=2),
        "max_page_sharing 100,000": Policy(max_page_sharing=100_000),
    }.items():
        found = predict(snapshot, policy)
        assert table["settable"][name]
        assert table["bytes_saved"][name] == found.physical["bytes_saved"]
        assert table["net_bytes_saved"][name] == found.physical["net_bytes_saved"]
        assert table["general_profit"][name] == found.counters["general_profit"]
        assert table["ksm_rmap_items"][name] == found.counters["ksm_rmap_items"]
    assert (table["frames_freed"] <= table["frames_freed"][IDEAL]).all()
    assert (table["lost_bytes"] >= 0).all()


def domains() -> Snapshot:
    """Content 1 is in all four, 2 in both of a user, 3 twice in one process, 0 everywhere."""
    return system(
        [
            Process("a", [Area([1, 2, 3, 3, 0])], cgroup="/one.service/x", uid=1, pid=1),
            Process("b", [Area([1, 2, 0])], cgroup="/one.service/y", uid=1, pid=2),
            Process("c", [Area([1, 0])], cgroup="/two.service", uid=1, pid=3),
            Process("d", [Area([1, 0])], cgroup="/three.service", uid=2, pid=4),
        ]
    )


def test_domains_keep_apart_what_is_equal() -> None:
    freed = rows(domains(), labels=np.array([0, 1, 1, 0]))["frames_freed"]
    assert freed[IDEAL] == 3 + 1 + 1 + 4
    assert freed["as asked"] == 3 + 1 + 1 + 3
    assert freed["only within a user"] == 2 + 1 + 1 + 2
    assert freed["only within a service"] == 1 + 1 + 1 + 1
    assert freed["only within a cgroup"] == 0 + 0 + 1 + 0
    assert freed["only within a label"] == 2 + 0 + 1 + 2
    assert freed["zero-filled pages only"] == 4


def test_what_most_is_lost_to() -> None:
    lost_to = rows(domains())["lost_to"]
    assert lost_to["only within a cgroup"] == OTHERS
    assert lost_to["zero-filled pages only"] == OTHER
    assert lost_to["as opted in now"] == "not VM_MERGEABLE"
    assert lost_to["use_zero_pages on"] == ""


def test_zero_pages_go_to_nobody_in_particular() -> None:
    freed = rows(domains(), Policy(use_zero_pages=True))["frames_freed"]
    assert freed["only within a cgroup"] == 1 + 4
    assert freed["use_zero_pages off"] == 3 + 1 + 1 + 3


def test_a_fork_family_shares_pages() -> None:
    snapshot = system(
        [
            Process("server", [Area([1, 2], frames=["x", "y"])]),
            Process("other", [Area([1, 2])]),
            Process("worker", [Area([1, 9], frames=["x", "own"])]),
            Process("worker", [Area([2, 9], frames=["y", "own too"])]),
        ]
    )
    assert by_family(snapshot).tolist() == [0, 1, 0, 0]
    assert rows(snapshot)["frames_freed"]["only within a fork family"] == 1


def test_a_later_look_counts_in_every_row() -> None:
    first = system([Process("a", [Area([5, 5, 5])])])
    hashes = first.frames["hash"].copy()
    hashes.iloc[0] = 1
    later = replace(first, frames=first.frames.assign(hash=hashes))
    freed = rows(first, later=later)["frames_freed"]
    assert freed["as asked"] == freed["only within a user"] == 1


LABELS = "# tenants\n1 red\n\n/one.service red\n/two.service blue\n4 blue\n"


def test_labels_of_pids_and_cgroups() -> None:
    codes = by_labels(domains().processes, LABELS.splitlines(), "labels")
    assert codes.tolist() == [0, 0, 1, 1]
    nobody = by_labels(domains().processes, ["4 blue"], "labels")
    assert nobody.tolist() == [0, 0, 0, 1]
    inner = by_labels(domains().processes, ["/one.service/y b", "/one.service a"], "labels")
    assert inner.tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["9 red"], "labels, line 1: the snapshot has no 9"),
        (["", "/four red"], "labels, line 2: the snapshot has no /four"),
        (["1 red", "1 blue"], "labels, line 2: 1 is red already, not blue"),
        (["/one.service red", "1 blue"], "pid 1 is blue by its pid and red by its cgroup"),
        (["red 1"], "'red 1' is neither PID LABEL nor /CGROUP LABEL"),
        (["1"], "'1' is neither"),
    ],
)
def test_labels_that_can_not_be_meant(lines: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        by_labels(domains().processes, lines, "labels")


def test_apart_changes_no_page_that_could_not_be_read() -> None:
    snapshot = system([Process("a", [Area([1, None, 0])])])
    apart = separated(snapshot, None, keep_zero=True)
    assert apart.frames["hash"].isna().equals(snapshot.frames["hash"].isna())
    zero = snapshot.frames["hash"] == apart.frames["hash"]
    assert int(zero.sum()) == 1


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    write_snapshot(domains(), tmp_path / "a.ksm")
    return tmp_path / "a.ksm"


def test_the_commands(snapshot: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text(LABELS)
    done = estimator("whatif", snapshot, "--labels", tmp_path / "labels")
    assert done.returncode == 0
    assert "only within a label *" in done.stdout
    assert "= becomes free" in done.stdout
    done = estimator("report", "--why", snapshot, "--pid", "1", "--scope", "enabled")
    assert done.returncode == 0
    assert "opt in: advise says what, and how" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "--vma", "10"], "--vma goes with --why"),
        (["report", "--why", "--vma", "10"], "an address is one of a process"),
        (["report", "--why", "--pid", "1", "--vma", "x"], "'x' is no address"),
        (["report", "--why", "--html", "a.html"], "--why has no page"),
        (["whatif", "--labels", "nothing"], "nothing can't be read: No such file"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str, snapshot: Path) -> None:
    done = estimator(arguments[0], snapshot, *arguments[1:])
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_larger_pages_share_less() -> None:
    """Sixteen pages: the first four equal the next four, the others only in single pages."""
    group = [1, 2, 3, 4]
    snapshot = system([Process("a", [Area([*group, *group, 1, 1, 1, 1, 2, 2, 5, 6])])])
    start = snapshot.vmas["start"] // 65536 * 65536
    aligned = replace(snapshot, vmas=snapshot.vmas.assign(start=start, end=start + 65536))
    table = what_if(aligned).alike.page_sizes.set_index("page_bytes")
    assert table["bytes_saved"].tolist() == [10 * 4096, 4 * 4096, 0, 0]
    assert table["whole_bytes"].tolist() == [65536, 65536, 65536, 0]


def test_larger_pages_that_fork_shares_are_one() -> None:
    frames = [f"f{n}" for n in range(4)]
    twice = [Process("w", [Area([1, 2, 3, 4], frames=frames)]) for _ in range(2)]
    snapshot = system([*twice, Process("x", [Area([1, 2, 3, 4])]), Process("y", [Area([1, 2, 3])])])
    start = snapshot.vmas["start"] // 16384 * 16384
    vmas = snapshot.vmas.assign(start=start, end=start + 16384)
    table = what_if(replace(snapshot, vmas=vmas)).alike.page_sizes.set_index("page_bytes")
    assert table["bytes_saved"][16384] == 16384
    assert table["whole_bytes"][16384] == 2 * 16384


def test_not_aligned_or_in_another_order_is_not_equal() -> None:
    snapshot = system([Process("a", [Area([1, 2, 3, 4, 4, 3, 2, 1])])])
    start = snapshot.vmas["start"] // 16384 * 16384
    for shift, whole in ((0, 2), (4096, 1)):
        vmas = snapshot.vmas.assign(start=start + shift, end=start + shift + 8 * 4096)
        table = what_if(replace(snapshot, vmas=vmas)).alike.page_sizes.set_index("page_bytes")
        assert table["bytes_saved"][16384] == 0
        assert table["whole_bytes"][16384] == whole * 16384


def test_where_ksm_has_merged_all_lines_have_one_base() -> None:
    """Five mappings of one KSM page, and one page more like it; with 2 a node, three nodes."""
    made = merged(5)
    made.process(*small(7))
    found = what_if(made.snapshot())
    table = found.table.set_index("name")
    assert found.merged_now
    assert table["frames_freed"].to_dict()[IDEAL] == 1
    assert table["frames_freed"]["as asked"] == 1
    assert table["frames_freed"]["max_page_sharing 16"] == 1
    assert table["frames_freed"]["max_page_sharing 2"] == -1
    assert table["lost_bytes"]["max_page_sharing 2"] == 2 * 4096
    assert (table["lost_bytes"] >= 0).all()
