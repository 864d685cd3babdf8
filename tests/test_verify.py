"""verify against a directory tree in the shape of /sys and /proc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from estimator.advice.verify import verify
from estimator.errors import CannotAnswerError
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.procfs.ksm_counters import read_reality
from tests.systems import Area, Process, system

SNAPSHOT = system([Process("web", [Area([1, 2, 3])], pid=p) for p in (10, 11)])


def running(
    root: Path, ksm: dict[str, object], stats: dict[int, tuple[str, dict[str, int]]]
) -> Path:
    directory = root / "sys/kernel/mm/ksm"
    directory.mkdir(parents=True)
    for name, value in ksm.items():
        (directory / name).write_text(f"{value}\n")
    for pid, (comm, stat) in stats.items():
        process = root / "proc" / str(pid)
        process.mkdir(parents=True)
        (process / "comm").write_text(f"{comm}\n")
        (process / "cmdline").write_text("" if comm == "ksmd" else comm)
        (process / "stat").write_text(f"{pid} ({comm}) S " + "0 " * 10 + "150 250 " + "0 " * 30)
        if stat:
            (process / "ksm_stat").write_text("".join(f"{k} {v}\n" for k, v in stat.items()))
    return root


def test_prediction_beside_reality(tmp_path: Path) -> None:
    settings = {"run": 1, "full_scans": 10, "max_page_sharing": 128, "advisor_mode": "[none] x"}
    counters = {"pages_shared": 3, "pages_sharing": 2, "pages_unshared": 0, "pages_scanned": 1000}
    stat = {"ksm_rmap_items": 3, "ksm_merging_pages": 2, "ksm_merge_any:": 1}
    root = running(
        tmp_path,
        settings | counters,
        {10: ("web", stat), 11: ("other", stat), 40: ("ksmd", {})},
    )
    prediction = predict(SNAPSHOT, Policy())
    verification = verify(prediction, read_reality(root))

    table = verification.counters.set_index("counter")
    side_by_side = ["predicted", "real", "difference"]
    assert list(table.loc["pages_shared", side_by_side]) == [3, 3, 0]
    assert list(table.loc["pages_sharing", side_by_side]) == [3, 2, -1]
    assert table["real"].isna()["general_profit"]
    assert verification.gone == 1  # pid 11 is another program now
    processes = verification.processes.set_index("counter")["difference"]
    assert processes.to_dict() == {"ksm_rmap_items": 0, "ksm_merging_pages": -1}
    assert verification.caveats == ["predicted with max_page_sharing 256, here it is 128"]
    assert verification.page_cost is not None
    ticks = os.sysconf("SC_CLK_TCK")
    assert verification.page_cost.seconds == pytest.approx(400 / ticks / 1000)
    assert "measured" in verification.page_cost.source


def test_ksm_that_is_off_or_new_is_said(tmp_path: Path) -> None:
    root = running(tmp_path, {"run": 0, "full_scans": 1, "smart_scan": 1}, {})
    caveats = verify(predict(SNAPSHOT, Policy()), read_reality(root)).caveats
    assert [caveat.split(":")[0].split(";")[0] for caveat in caveats] == [
        "ksmd is not running",
        "ksmd has done 1 full scans",
        "smart_scan is on",
    ]


def test_processes_that_have_not_opted_in_are_said(tmp_path: Path) -> None:
    stat = {"ksm_rmap_items": 3, "ksm_merging_pages": 3}
    none = dict.fromkeys(stat, 0)
    root = running(tmp_path, {"run": 1, "full_scans": 9}, {10: ("web", stat), 11: ("web", none)})
    caveats = verify(predict(SNAPSHOT, Policy()), read_reality(root)).caveats
    assert len(caveats) == 1
    assert caveats[0].startswith("1 of the predicted processes have no rmap_item here")


def test_a_kernel_without_ksm(tmp_path: Path) -> None:
    with pytest.raises(CannotAnswerError, match="this kernel has no KSM"):
        read_reality(tmp_path)
