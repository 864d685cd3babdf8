"""Where smart_scan has put pages out of step: which of them ever merge, as ksmd itself shows.

Processes come between full scans, and the dump is taken in the midst of one; then ksmd goes on
until all have had their turns.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from estimator.kernel.collect import collect_core
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.flags import AHEAD, SKIPPING_SCANS
from tests.lab.conftest import again, lab_kernel
from tests.lab.truth import KSM, report, settle
from tests.lab.workload import WITHOUT_DAMON_STAT, Workload, booted

pytestmark = pytest.mark.lab

ENABLED = Policy(scope="enabled")
LISTS = 12
"""Contents that a process has in common with the one before it and the one behind it."""
LATER_SCANS = 100  # the unshared pages of each scan are others, for ever
COUNTERS = ("pages_shared", "pages_sharing", "stable_node_chains", "stable_node_dups")


def script(number: int) -> str:
    """Of process ``number``: what only one other has, what all have, and what is pinned."""
    mine = number % LISTS
    return f"""
        map data 700
        fill data[:150] list {mine}
        fill data[150:300] list {(number + 1) % LISTS}
        fill data[300:310] same {100 + number % 3}
        fill data[310:320] same 200
        fill data[320:400] own {number}
        fill data[400:500] list {50 + number % 2}
        fill data[500:520] zero
        fill data[520:540] list 70
        {"register data[520:540]" if number % 4 == 1 else ""}
        advise data mergeable
    """


SERVER = """
    map data 300
    fill data[:100] list 3
    fill data[100:200] list 60
    advise data mergeable
    stop
    fork 2
    fill data[:50] list 5
    fill data[200:300] list 60
    end
"""


@pytest.mark.parametrize("max_page_sharing", [256, 3])
@pytest.mark.parametrize(
    ("series", "scans_before", "pages_into"),
    [
        ("7.3", (13, 10, 6, 25, 1, 0, 3), 0),
        ("7.3", (13, 9, 14, 2, 30, 4, 8), 1500),
        again("6.12", (13, 10, 6, 25, 1, 0, 3), 900),
        again("6.12", (13, 31, 2, 8, 17, 5, 1), 0),
        again("7.2", (13, 10, 6, 25, 1, 0, 3), 700),
        again("6.18", (13, 9, 14, 2, 30, 4, 8), 1500),
        again("7.2-arm64", (13, 10, 6, 25, 1, 0, 3), 700),
        again("6.12-arm64-16k", (13, 9, 14, 2, 30, 4, 8), 1500),
        again("6.12-arm64-64k", (13, 9, 14, 2, 30, 4, 8), 0),
    ],
)
def test_what_merges_of_pages_out_of_step(
    series: str,
    scans_before: tuple[int, ...],
    pages_into: int,
    max_page_sharing: int,
    tmp_path: Path,
) -> None:
    ksm = {"smart_scan": 1, "max_page_sharing": max_page_sharing}
    workload = Workload("turns", (), ksm=ksm, commands=(WITHOUT_DAMON_STAT,))
    kernel = lab_kernel(series)
    with booted(workload, kernel) as session:
        guest = session.guest
        session.start(SERVER)
        for number, scans in enumerate(scans_before):
            session.start(script(number))
            if number == 4:
                session.go(0)  # the server forks
            if scans:
                settle(guest, min_scans=scans, stable_scans=0)
        if pages_into:
            some = f"cd {KSM}; echo {pages_into} > pages_to_scan; echo 3600000 > sleep_millisecs"
            guest.run(f"{some}; echo 1 > run; sleep 1; echo 0 > run")
            guest.run(f"cd {KSM}; echo 1000000000 > pages_to_scan; echo 20 > sleep_millisecs")
        guest.dump(tmp_path / "vmcore")
        seen = settle(guest, min_scans=LATER_SCANS, stable_scans=0)
        after = report(guest)
        guest.run(f"echo 0 > {KSM}/smart_scan")
        settle(guest, min_scans=2, stable_scans=0)
        together = report(guest)
    snapshot = collect_core(tmp_path / "vmcore", [kernel.vmlinux], seed=0)
    (tmp_path / "vmcore").unlink()
    visits = snapshot.mappings["visits"].to_numpy()
    assert len(np.unique(visits)) > 4
    assert (visits & AHEAD).any() == (pages_into > 0)
    assert not snapshot.info["unknown"]["rmap_lists"]
    found = predict(snapshot, ENABLED)
    assert not any("scanned before" in warning for warning in found.warnings)
    told = {name: found.counters[name] for name in COUNTERS}
    assert told == {name: after.counter(name) for name in COUNTERS}
    assert found.counters["ksm_rmap_items"] == after.ksm_rmap_items
    in_turn = sum(counters["pages_unshared"] for counters in seen[-SKIPPING_SCANS:])
    assert found.counters["pages_unshared"] == in_turn
    kept_apart = [text for text in found.warnings if "smart_scan keeps" in text]
    assert len(kept_apart) == 1
    if max_page_sharing > 3:  # what goes on from full nodes is another story
        in_step = replace(snapshot, mappings=snapshot.mappings.drop(columns="visits"))
        sharing = predict(in_step, ENABLED).counters["pages_sharing"]
        assert together.counter("pages_sharing") == sharing
        assert f"keeps {sharing - told['pages_sharing']:,} pages" in kept_apart[0]
