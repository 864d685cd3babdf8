"""The proof must see what differs: in a counter, a process, a VMA; and fail then."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.snapshot import Snapshot
from tests.lab import proof
from tests.lab.apt import LabError
from tests.lab.compare import counter_numbers, process_numbers, vma_numbers
from tests.lab.proof_page import KERNELS_BEGIN, KERNELS_END, kernels, page, put_into
from tests.lab.truth import State, Truth
from tests.lab.verdict import Verdict, inherited_counters
from tests.lab.workload import Workload
from tests.synthetic import System, small


def state(snapshot: Snapshot, *, sharing: int = 2, merging: int = 2, ksm_kb: int = 8) -> State:
    """What a guest with two processes of the same two pages says, and a third one without any."""
    ksm = {"pages_shared": 2, "pages_sharing": sharing, "pages_unshared": 0, "pages_volatile": 0}
    starts = snapshot.vmas["start"].tolist()
    processes: list[dict[str, Any]] = [
        {
            "pid": pid,
            "ppid": 1,
            "comm": "actor",
            "ksm_merging_pages": merging,
            "ksm_stat": {"ksm_rmap_items": 2},
            "vmas": [{"start": start, "name": "", "ksm_kb": ksm_kb}],
        }
        for pid, start in zip((100, 101), starts, strict=True)
    ]
    other = {
        "pid": 1,
        "ppid": 0,
        "comm": "init",
        "ksm_merging_pages": 0,
        "ksm_stat": {},
        "vmas": [],
    }
    names = {name: str(value) for name, value in ksm.items()}
    return State(names, [other, *processes], {"nr_slab_reclaimable": 0}, 1000, 0, 0)


def verdict(**after: int) -> Verdict:
    system = System()
    system.process(*small(1, 2))
    system.process(*small(1, 2))
    snapshot = system.snapshot()
    prediction = predict(snapshot, Policy(scope="enabled"))
    truth = Truth("6.12.1", state(snapshot), state(snapshot, **after), [], [])
    return Verdict(
        Workload("pairs", ()),
        snapshot,
        prediction,
        truth,
        counter_numbers(prediction, truth.after),
        process_numbers(prediction, truth.after, snapshot, {}),
        vma_numbers(prediction, truth.after, snapshot),
        (),
    )


def test_equal() -> None:
    found = verdict()
    assert found.differences == {}
    text = page([("Pairs.", [found])], [], "abc1234")
    assert "| pairs | 6.12 | 2 / 2 | 2 / 2 | 0 / 0 | 0 / 0 | 0 / – |" in text
    assert "0 of them differ" in text


@pytest.mark.parametrize(
    ("after", "what"),
    [
        ({"sharing": 3}, {"pages_sharing": (2, 3), "ksm_rmap_items": (4, 5)}),
        (
            {"merging": 1},
            {f"ksm_merging_pages of {pid} (actor)": (2, 1) for pid in (100, 101)},
        ),
    ],
)
def test_a_difference_is_seen(after: dict[str, int], what: dict[str, tuple[int, int]]) -> None:
    found = verdict(**after)
    assert found.differences == what
    assert found.difference == 2
    assert "2 of them differ" in page([("Pairs.", [found])], [], "abc1234")


def test_a_difference_in_a_vma_is_seen() -> None:
    assert list(verdict(ksm_kb=4).differences.values()) == [(2, 1), (2, 1)]


def test_children_inherit_what_their_parent_had_at_the_dump() -> None:
    system = System()
    system.process(*small(1, 2))
    system.process(*small(1, 2))
    before = state(system.snapshot())
    before.by_pid[101]["ppid"] = 100
    truth = Truth("6.1.0", before, before, [], [100])
    assert inherited_counters(truth) == {101: {"ksm_rmap_items": 2, "ksm_merging_pages": 2}}


PLACE = ("--commit", "abc1234", "--subject", "numa", "--out")


@pytest.mark.parametrize("after", [{}, {"sharing": 3}])
def test_the_command_fails_if_something_differs(
    after: dict[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(proof, "ensure_tools", lambda machine: None)
    monkeypatch.setattr(proof, "prove", lambda workload, series, keep: verdict(**after))
    monkeypatch.setattr(sys, "argv", ["proof", *PLACE, str(tmp_path / "p")])
    assert proof.main() == (1 if after else 0)
    assert ("**Failed:**" in (tmp_path / "p").read_text()) == bool(after)


def test_the_command_fails_if_a_guest_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def prove(workload: Workload, series: str, keep: Path | None) -> Verdict:
        raise LabError("no such guest")

    monkeypatch.setattr(proof, "ensure_tools", lambda machine: None)
    monkeypatch.setattr(proof, "prove", prove)
    monkeypatch.setattr(sys, "argv", ["proof", *PLACE, str(tmp_path / "p")])
    assert proof.main() == 1
    assert "no such guest" in (tmp_path / "p").read_text()


def test_the_table_of_kernels_takes_the_place_of_the_last_one() -> None:
    found = verdict()
    table = kernels([("Pairs.", [found]), ("More pairs.", [found])])
    row = f"| 6.12.1 | 1 | {2 * found.compared} | 0 |"
    assert row in table.splitlines()
    wrong = verdict(sharing=3, ksm_kb=4)
    assert f"| {wrong.compared} | {len(wrong.differences)} |" in kernels([("Pairs.", [wrong])])
    document = f"before\n{KERNELS_BEGIN}\nold\n{KERNELS_END}\nafter\n"
    expected = f"before\n{KERNELS_BEGIN}\n{table}{KERNELS_END}\nafter\n"
    assert put_into(document, table) == expected
    assert put_into(expected, table) == expected
