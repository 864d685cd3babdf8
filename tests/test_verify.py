"""verify against a directory tree in the shape of /sys and /proc."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from estimator.advice.verify import verify
from estimator.errors import CannotAnswerError, UsageError
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.procfs.ksm_counters import read_reality
from estimator.snapshot.identity import Identity
from tests.systems import Area, Process, system

BOOT = "8f1c4b6e-0000-4000-8000-000000000001"
SNAPSHOT = system([Process("web", [Area([1, 2, 3])], pid=p) for p in (10, 11)])
SNAPSHOT.info["boot_id"] = BOOT


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
    return machine(root)


def machine(root: Path, boot: str = BOOT, host: str = "example", release: str = "6.12") -> Path:
    """What says in /proc and /etc which machine and boot it is."""
    kernel = root / "proc/sys/kernel"
    (kernel / "random").mkdir(parents=True, exist_ok=True)
    (kernel / "random/boot_id").write_text(f"{boot}\n")
    (kernel / "hostname").write_text(f"{host}\n")
    (kernel / "osrelease").write_text(f"{release}\n")
    return root


def test_prediction_beside_reality(tmp_path: Path) -> None:
    settings = {"run": 1, "full_scans": 10, "max_page_sharing": 128, "advisor_mode": "[none] x"}
    counters = {"pages_shared": 3, "pages_sharing": 2, "pages_unshared": 0, "pages_scanned": 1000}
    counters["pages_volatile"] = 4
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
    assert table["real"]["ksm_rmap_items"] == 3 + 2 + 0 + 4
    assert verification.gone == 1  # pid 11 is another program now
    processes = verification.processes.set_index("counter")["difference"]
    assert processes.to_dict() == {"ksm_rmap_items": 0, "ksm_merging_pages": -1}
    assert verification.caveats == ["predicted with max_page_sharing 256, here it is 128"]
    assert verification.page_cost is not None
    ticks = os.sysconf("SC_CLK_TCK")
    assert verification.page_cost.seconds == pytest.approx(400 / ticks / 1000)
    assert "measured" in verification.page_cost.source


def test_a_name_may_be_any_bytes(tmp_path: Path) -> None:
    root = running(tmp_path, {"run": 1}, {10: ("web", {}), 12: ("odd", {})})
    (root / "proc/12/comm").write_bytes(b"x\xff\r\n")  # as collect reads it
    assert [process.comm for process in read_reality(root).processes] == ["web", "x\ufffd\r"]


def test_ksm_that_is_off_or_new_is_said(tmp_path: Path) -> None:
    root = running(tmp_path, {"run": 0, "full_scans": 1, "smart_scan": 1}, {})
    found = caveats(root)
    assert [caveat.split(":")[0].split(";")[0] for caveat in found] == [
        "ksmd is not running",
        "1 full scan since the last echo 2 > run, or the boot",
        "smart_scan is on",
    ]


def test_processes_that_have_not_opted_in_are_said(tmp_path: Path) -> None:
    stat = {"ksm_rmap_items": 3, "ksm_merging_pages": 3}
    none = dict.fromkeys(stat, 0)
    root = running(tmp_path, {"run": 1, "full_scans": 9}, {10: ("web", stat), 11: ("web", none)})
    found = caveats(root)
    assert len(found) == 1
    assert found[0].startswith("1 of the predicted processes have no rmap_item here")


RUNNING: dict[str, object] = {"run": 1, "full_scans": 9}


def caveats(root: Path, **info: Any) -> list[str]:
    snapshot = replace(SNAPSHOT, info=SNAPSHOT.info | info)
    return verify(predict(snapshot, Policy()), read_reality(root)).caveats


def test_a_machine_in_the_same_boot_may_have_another_name(tmp_path: Path) -> None:
    running(tmp_path, RUNNING, {})
    assert caveats(tmp_path) == []
    assert caveats(machine(tmp_path, host="container")) == []


def test_another_boot_is_said(tmp_path: Path) -> None:
    running(tmp_path, RUNNING, {})
    assert caveats(machine(tmp_path, boot="other")) == [
        "the snapshot is of another boot, so of other processes and pages: the boot-ids differ"
    ]
    release = SNAPSHOT.info["kernel"]["release"]
    found = caveats(machine(tmp_path, release="6.99"), boot_id=None)
    assert found[0].endswith(f"kernel {release} and kernel 6.99")


def test_where_the_boot_is_not_known_that_is_said(tmp_path: Path) -> None:
    release = SNAPSHOT.info["kernel"]["release"]
    machine(running(tmp_path, RUNNING, {}), release=release)
    assert "not known" in caveats(tmp_path, boot_id=None)[0]
    (tmp_path / "proc/sys/kernel/random/boot_id").unlink()
    assert "not known" in caveats(tmp_path)[0]


def test_a_name_that_was_never_set_is_no_name() -> None:
    unnamed, first, second = (Identity.of({"host": host}) for host in ("(none)", "web1", "web2"))
    assert unnamed.other_machine(first) is None
    assert first.other_machine(second)


def test_another_machine_is_refused(tmp_path: Path) -> None:
    running(tmp_path, RUNNING, {})
    with pytest.raises(UsageError, match="host example and host elsewhere"):
        caveats(machine(tmp_path, boot="other", host="elsewhere"))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("m1\n")
    with pytest.raises(UsageError, match="machine-ids differ"):
        caveats(machine(tmp_path, boot="other"), machine_id="m2")
    assert len(caveats(machine(tmp_path, boot="other", host="renamed"), machine_id="m1")) == 1


def test_a_kernel_without_ksm(tmp_path: Path) -> None:
    with pytest.raises(CannotAnswerError, match="this kernel has no KSM"):
        read_reality(tmp_path)
