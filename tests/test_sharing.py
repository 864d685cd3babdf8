"""Who is credited with the saving, and what crosses a border."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.advice.attribution import contributions, contributions_by
from estimator.advice.borders import borders, sharing_matrix
from estimator.advice.verdict import savings as both_savings
from estimator.ksm import sharing
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.flags import MappingFlag
from estimator.snapshot.names import unit_of
from estimator.snapshot.snapshot import Snapshot
from tests.synthetic import Frame, System, small
from tests.systems import ZERO, Area, Process, fork_server, system

EVERYTHING = Policy()


def freed_frames(snapshot: Snapshot, policy: Policy = EVERYTHING) -> int:
    physical = predict(snapshot, policy).physical
    return physical["frames_before"] - physical["frames_after"]


def credited(snapshot: Snapshot) -> dict[str, float]:
    table = contributions(snapshot, predict(snapshot, EVERYTHING))
    return dict(contributions_by(table, ["comm"])[["comm", "saved_pages"]].to_numpy().tolist())


def test_copies_are_credited_in_equal_parts() -> None:
    snapshot = system([Process("a", [Area([1, 1])]), Process("b", [Area([1, 2])])])
    assert credited(snapshot) == pytest.approx({"a": 4 / 3, "b": 2 / 3})


def test_a_frame_that_fork_shares_is_one_frame() -> None:
    """8 forks of 20 pages and one copy: 160 references, 20 frames."""
    forks = [Process("fork", [Area(list(range(20)), frames=[f"f{i}" for i in range(20)])])] * 8
    snapshot = system([*forks, Process("copy", [Area(list(range(20)))])])
    prediction = predict(snapshot, EVERYTHING)
    found = both_savings(snapshot, prediction)
    assert prediction.counters["pages_sharing"] == 160
    assert found.freed_bytes == 20 * 4096
    assert (found.fork_shared_pages, found.kept_pages) == (140, 0)
    assert credited(snapshot) == pytest.approx({"fork": 10, "copy": 10})


def test_a_frame_that_somebody_else_keeps_is_not_freed() -> None:
    """The loner does not take part, but maps the same frame as the second of two copies."""
    mine = Process("mine", [Area([1]), Area([1], frames=["kept"], name="")])
    snapshot = system([mine, Process("loner", [Area([1], frames=["kept"])])])
    prediction = predict(snapshot, Policy(comms=("mine",)))
    assert both_savings(snapshot, prediction).kept_pages == 1


@pytest.mark.parametrize("use_zero_pages", [False, True])
def test_credits_add_up_to_the_physical_saving(use_zero_pages: bool) -> None:
    snapshot = fork_server()
    policy = Policy(use_zero_pages=use_zero_pages)
    credit = predict(snapshot, policy).credits.of_row[:]
    assert credit.sum() == pytest.approx(freed_frames(snapshot, policy))


def test_what_was_merged_already_is_no_new_saving() -> None:
    """A stable node with 3 items stands already; one copy more joins it."""
    made = System()
    node = Frame(7)
    made.stable_node(node)
    for _ in range(3):
        made.process(node, flags=MappingFlag.MERGED, mergeable=True)
    made.process(*small(7))
    snapshot = made.snapshot()
    found = both_savings(snapshot, predict(snapshot, EVERYTHING))
    assert found.merged_now_pages == 2
    assert found.freed_bytes == 4096
    assert (found.fork_shared_pages, found.kept_pages) == (0, 0)


pages = st.lists(
    st.tuples(st.integers(0, 4), st.one_of(st.none(), st.sampled_from("abcdef"))), max_size=8
)


@given(
    st.lists(st.tuples(st.sampled_from(["in", "out"]), pages), min_size=2, max_size=5),
    st.booleans(),
    st.sampled_from([2, 3, 256]),
)
@settings(max_examples=60, deadline=None)
def test_credits_add_up_whoever_shares_and_stays_out(
    processes: list[tuple[str, list[tuple[int, str | None]]]], use_zero_pages: bool, limit: int
) -> None:
    """Random forks, of which some processes do not take part and keep frames of others."""
    of_frame: dict[str, int] = {}
    made = [Process("in", [Area([1], name="")])]
    for number, (comm, mapped) in enumerate(processes):
        contents = [c if f is None else of_frame.setdefault(f, c) for c, f in mapped]
        names = [f or f"own {number} {place}" for place, (_, f) in enumerate(mapped)]
        made.append(Process(comm, [Area(contents, frames=names)]))
    snapshot = system(made)
    policy = Policy(comms=("in",), use_zero_pages=use_zero_pages, max_page_sharing=limit)
    prediction = predict(snapshot, policy)
    credit = prediction.credits.of_row[:]
    assert credit.min(initial=0) >= 0
    assert credit.sum() == pytest.approx(prediction.physical["frames_freed"])
    apart = borders(snapshot, prediction, np.arange(len(snapshot.processes)))
    assert apart.within + apart.across == pytest.approx(credit.sum())
    assert apart.across >= 0


def test_borders_between_domains() -> None:
    """5 copies, 3 in one domain and 2 in the other: of 4 saved frames one crosses."""
    one, other = Process("a", [Area([1, 1, 1])]), Process("b", [Area([1, 1])])
    snapshot = system([one, other])
    prediction = predict(snapshot, EVERYTHING)
    apart = borders(snapshot, prediction, np.array([0, 1]))
    assert (apart.within, apart.across) == (3, 1)
    together = borders(snapshot, prediction, np.array([0, 0]))
    assert (together.within, together.across) == (4, 0)


def test_a_domain_that_is_not_known_is_one_of_its_own() -> None:
    snapshot = system([Process("a", [Area([1, 1])]), Process("b", [Area([1])])])
    apart = borders(snapshot, predict(snapshot, EVERYTHING), np.array([0, -1]))
    assert (apart.within, apart.across) == (1, 1)


def test_sharing_matrix() -> None:
    snapshot = system(
        [
            Process("a", [Area([1, 2, 3, 3])]),
            Process("b", [Area([1, 2])]),
            Process("c", [Area([9])]),
        ]
    )
    matrix = sharing_matrix(snapshot, predict(snapshot, EVERYTHING), np.array([0, 1, -1]), 2)
    assert matrix.tolist() == [[1, 2], [2, 0]]


def test_what_groups_save_is_the_sum_of_what_their_members_do() -> None:
    prediction = predict(fork_server(), Policy(use_zero_pages=True))
    mms = len(prediction.snapshot.processes)
    group = np.arange(mms) % 3 - 1
    directly = sharing.saved_between(prediction, group, 2)
    prediction.pairs("process")
    summed = sharing.saved_between(prediction, group, 2)
    assert summed[0] == pytest.approx(directly[0])
    assert summed[1] == pytest.approx(directly[1])
    assert (summed[0] > 0).all()
    assert prediction.between_mms[0].shape == (mms, mms)


def saved_by(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Whom the pairs of programs are of, and what each saves."""
    names = zip(table["comm_a"], table["comm_b"].fillna("nobody"), strict=True)
    return dict(zip(names, table["saved_pages"].tolist(), strict=True))


def test_who_saves_with_whom() -> None:
    """Three frames end as one: each two of them bring 2/3 of a frame."""
    snapshot = system([Process("a", [Area([1, 1, 2])]), Process("b", [Area([1, 2, 3, 3])])])
    prediction = predict(snapshot, EVERYTHING)
    assert saved_by(prediction.pairs("program")) == pytest.approx(
        {("a", "b"): 4 / 3 + 1, ("b", "b"): 1, ("a", "a"): 2 / 3}
    )
    by_process = prediction.pairs()
    assert by_process.columns.tolist() == [
        "pid_a", "comm_a", "unit_a", "pid_b", "comm_b", "unit_b", "saved_pages",
    ]  # fmt: skip
    assert by_process.iloc[0][["pid_a", "pid_b"]].tolist() == [1000, 1001]
    assert prediction.pairs("service")["saved_pages"].tolist() == pytest.approx([4])


def test_what_needs_no_partner_has_none() -> None:
    snapshot = system([Process("a", [Area([ZERO] * 3 + [1])]), Process("b", [Area([1, ZERO])])])
    pairs = predict(snapshot, Policy(use_zero_pages=True)).pairs("program")
    assert saved_by(pairs) == {("a", "nobody"): 3, ("a", "b"): 1, ("b", "nobody"): 1}


def test_a_frame_that_fork_shares_is_split_between_its_holders() -> None:
    forks = [Process("fork", [Area([1], frames=["f"])])] * 2
    pairs = predict(system([*forks, Process("copy", [Area([1])])]), EVERYTHING).pairs("process")
    whom = [set(pair) for pair in pairs[["pid_a", "pid_b"]].to_numpy().tolist()]
    assert sorted(map(sorted, whom)) == [[1000, 1002], [1001, 1002]]
    assert pairs["saved_pages"].tolist() == pytest.approx([0.5, 0.5])


def test_beyond_2000_processes_the_smallest_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_MOST", 2)
    crowd = [Process("big", [Area([1, 2, 3])]), *[Process(f"p{n}", [Area([n])]) for n in (1, 2, 3)]]
    prediction = predict(system(crowd), EVERYTHING)
    pairs = prediction.pairs()
    assert pairs[["pid_a", "pid_b"]].to_numpy().tolist() == [[1000, 0]]
    assert pairs["saved_pages"].sum() == pytest.approx(prediction.physical["frames_freed"])


def test_contents_that_lie_in_the_same_places_are_one_line() -> None:
    cache = Area(list(range(1, 101)), name="[anon:cache]")
    snapshot = system(
        [
            Process("web", [cache, Area([ZERO] * 3)], pid=7),
            Process("web", [cache]),
            Process("db", [cache]),
        ]
    )
    table = predict(snapshot, EVERYTHING).contents()
    assert table["contents"].tolist() == [100, 1]
    assert table["frames"].tolist() == table["mappings"].tolist() == [3, 3]
    assert table["saved_pages"].tolist() == pytest.approx([200, 2])
    assert table["zero"].tolist() == [False, True]
    assert table["holders"].tolist() == [
        [
            {"comm": "web", "unit": "/", "label": "[anon:cache]", "mappings": 2},
            {"comm": "db", "unit": "/", "label": "[anon:cache]", "mappings": 1},
        ],
        [{"comm": "web", "unit": "/", "label": "[heap]", "mappings": 3}],
    ]
    first = table.iloc[0]
    assert (first["pid"], first["label"]) == (7, "[anon:cache]")
    assert first["address"] == snapshot.vmas["start"][0]


def test_what_was_not_read_counts_as_nothing_saved() -> None:
    hidden = Area([None, None], name="")
    snapshot = system([Process("a", [Area([1, 1]), hidden])])
    found = predict(snapshot, EVERYTHING).coverage
    assert (found.candidate_pages, found.hashed_pages) == (4, 2)
    assert found.unknown_by_reason == {"excluded": 2}
    assert found.could_add_frames == 2


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("/system.slice/nginx.service", "nginx.service"),
        ("/system.slice/nginx.service/worker", "nginx.service"),
        ("/system.slice/docker-0123.scope", "docker-0123.scope"),
        ("/kubepods/burstable/pod1", "pod1"),
        ("/", "/"),
        ("", "/"),
    ],
)
def test_the_unit_of_a_cgroup(cgroup: str, unit: str) -> None:
    assert unit_of(cgroup) == unit
