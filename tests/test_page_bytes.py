"""Pages of 16 and 64 KiB: the same pages as with 4 KiB, and four and sixteen times the bytes."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from estimator.advice.plan import make_plan
from estimator.advice.risk import assess
from estimator.advice.schedule import schedule
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.report.html import report_page
from estimator.report.plots import frontier_figure
from estimator.report.tables import make_console
from estimator.report.text import render_plan
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from estimator.units import human_bytes, percent
from tests.commands import estimator
from tests.systems import fork_server

RECORD_BYTES = 64
SIZES = (4096, 16384, 65536)


def with_pages_of(page_bytes: int) -> Snapshot:
    """The processes of ``fork_server`` on a kernel with pages of that size."""
    snapshot = fork_server()
    vmas = snapshot.vmas
    start = vmas["start"].to_numpy()
    pages = (vmas["end"].to_numpy() - start) // np.uint64(4096)
    kernel = snapshot.info["kernel"] | {"page_size": page_bytes}
    return replace(
        snapshot,
        info=snapshot.info | {"kernel": kernel},
        vmas=vmas.assign(end=start + pages * np.uint64(page_bytes)),
    )


SNAPSHOTS = {size: with_pages_of(size) for size in SIZES}


@pytest.mark.parametrize("size", SIZES)
def test_counters_are_those_of_4_kib_and_bytes_are_not(size: int) -> None:
    found, small = (predict(SNAPSHOTS[each], Policy()) for each in (size, 4096))
    profit = found.counters["general_profit"]
    assert found.counters | {"general_profit": 0} == small.counters | {"general_profit": 0}
    merged = found.counters["pages_sharing"] + found.counters["ksm_zero_pages"]
    assert profit == merged * size - found.counters["ksm_rmap_items"] * RECORD_BYTES
    freed = found.physical["frames_freed"]
    assert freed == small.physical["frames_freed"] > 1000
    assert found.physical["bytes_saved"] == freed * size
    items = -(-found.counters["ksm_rmap_items"] // (size // RECORD_BYTES)) * size
    assert found.physical["rmap_items_bytes"] == items
    added = found.physical["overhead_bytes"] - found.physical["overhead_now_bytes"]
    assert found.physical["overhead_now_bytes"] == size  # mm slots: KSM's list has them
    assert found.physical["net_bytes_saved"] == freed * size - added


@pytest.mark.parametrize("size", SIZES)
def test_report_and_page_tell_these_bytes(size: int, tmp_path: Path) -> None:
    snapshot = SNAPSHOTS[size]
    prediction = predict(snapshot, Policy())
    write_snapshot(snapshot, tmp_path / "a.ksm")
    page = tmp_path / "a.html"
    text = estimator("report", tmp_path / "a.ksm", COLUMNS="200").stdout
    assert estimator("report", tmp_path / "a.ksm", "--html", page).returncode == 0
    net, before = (prediction.physical[name] for name in ("net_bytes_saved", "frames_before"))
    memory = f"{percent(net, before * size)} of {human_bytes(before * size)}"
    for told in (text, re.sub(r"<[^>]+>", " ", page.read_text())):
        words = " ".join(told.split())
        assert f"would free {human_bytes(net)} net: {memory}" in words


@pytest.mark.parametrize("size", SIZES)
def test_advice_tells_these_bytes(size: int) -> None:
    snapshot = SNAPSHOTS[size]
    plan, small = (make_plan(each) for each in (snapshot, SNAPSHOTS[4096]))
    counters = plan.prediction.counters
    assert counters["pages_sharing"] == small.prediction.counters["pages_sharing"] > 1000
    file = io.StringIO()
    times, risk = schedule(snapshot, plan.prediction), assess(snapshot, plan.prediction)
    render_plan(snapshot, plan, times, risk, make_console(file, width=200))
    words = " ".join(file.getvalue().split())
    assert human_bytes(plan.prediction.physical["net_bytes_saved"]) in words
    (axes,) = frontier_figure(snapshot, plan).axes
    dot = next(line for line in axes.lines if line.get_marker() == "o")
    pages, freed = (
        plan.prediction.coverage.candidate_pages,
        plan.prediction.physical["frames_freed"],
    )
    at = np.array([[pages, freed]]) * size / 2**20
    assert np.allclose(np.column_stack(dot.get_data()), at)
    html = report_page(snapshot, plan.everything, plan, times, risk)
    assert human_bytes(plan.prediction.physical["bytes_saved"]) in html


def test_json_tells_the_size(tmp_path: Path) -> None:
    write_snapshot(SNAPSHOTS[16384], tmp_path / "a.ksm")
    found = json.loads(estimator("predict", tmp_path / "a.ksm", "--json").stdout)
    assert found["kernel"]["page_size"] == 16384
    assert found["physical"]["bytes_saved"] == found["physical"]["frames_freed"] * 16384
