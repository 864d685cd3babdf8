"""The public case: 73,000 pages_shared, 2.1 million pages_sharing, "around 6 GB saved".

Published for Instagram's 64 GB servers (a controller that preloads and forks workers). The three
numbers fit together only with a fourth that was not published: how many pages ksmd keeps records
of. The shape is rebuilt here at one thousandth and the kernel's formula applied to it.
"""

from __future__ import annotations

import pytest

from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.snapshot import Snapshot
from tests.systems import Area, Process, system

SCALE = 1000
SHARED, SHARING, SAVED_BYTES = 73, 2100, 6e9 / SCALE
PAGE, RMAP_ITEM = 4096, 64
WORKERS = 32
SCANNED = round((SHARING * PAGE - SAVED_BYTES) / RMAP_ITEM)  # what reconciles the three


def shape(scanned: int) -> Snapshot:
    """73 contents in 2,173 copies over 32 workers; the rest of ``scanned`` is shared by fork."""
    copies = [content for content in range(1, SHARED + 1) for _ in range(29)]
    copies += list(range(1, SHARED + SHARING - len(copies) + 1))
    forked, left = divmod(scanned - len(copies), WORKERS)
    preloaded = Area(
        [100_000 + page for page in range(forked)], frames=[f"forked {n}" for n in range(forked)]
    )
    own = [copies[worker::WORKERS] for worker in range(WORKERS)]
    own[0] += [200_000 + page for page in range(left)]
    return system(
        [
            Process("uwsgi", [preloaded, Area(contents, name="")], cgroup="/uwsgi")
            for contents in own
        ]
    )


def test_the_number_of_scanned_pages_reconciles_the_case() -> None:
    assert pytest.approx(40.65e6, rel=1e-3) == SCANNED * SCALE
    prediction = predict(shape(SCANNED), Policy())
    counters = prediction.counters
    assert (counters["pages_shared"], counters["pages_sharing"]) == (SHARED, SHARING)
    assert counters["ksm_rmap_items"] == SCANNED
    assert counters["general_profit"] * SCALE == pytest.approx(6e9, rel=1e-5)


def test_without_the_records_it_would_be_eight_and_a_half_gigabytes() -> None:
    """pages_sharing alone: 8.6 GB, or 8.0 GiB; scanning nothing but what merges costs 0.14 GB."""
    assert pytest.approx(8.6e9, rel=1e-3) == SHARING * SCALE * PAGE
    counters = predict(shape(SHARED + SHARING), Policy()).counters
    assert counters["general_profit"] * SCALE == pytest.approx(8.46e9, rel=1e-2)


def test_so_many_pages_fit_into_64_gigabytes_only_shared_by_fork() -> None:
    assert SCANNED * SCALE * PAGE > 2.5 * 64e9
    prediction = predict(shape(SCANNED), Policy())
    assert prediction.physical["frames_before"] * SCALE * PAGE < 64e9
