"""What `advise` prints for systemd is done in a guest as printed: those opt in, the saving comes.

What it prints for programs and VMAs is a call to add to their own code: not tried here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from estimator.advice.attribution import contributions
from estimator.kernel.collect import collect
from estimator.kernel.running import open_qemu
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from tests.lab.compare import counter_numbers, process_numbers, unequal
from tests.lab.conftest import lab_kernel
from tests.lab.real_programs import PROGRAMS, SLICE, freeze, start, work
from tests.lab.systemd_guest import SystemdGuest, systemd_guest
from tests.lab.truth import KSM, STABLE_SCANS, report

pytestmark = pytest.mark.lab

QUICK = [program for program in PROGRAMS if program.quick]
SCAN_SECONDS = 5
REST_SECONDS = 900.0
NEAR = 0.05
"""By how much the saving may differ from the promise: it is of processes that started anew."""


def test_the_advice_holds(tmp_path: Path) -> None:
    with systemd_guest(lab_kernel("7.3"), tmp_path) as system:
        start(system, QUICK, memory_ksm=False)
        before = _look(system)
        assert not before.processes["merge_any"].any()
        advice = _advise(before, tmp_path / "before.ksm")
        lines = [line for line in advice["lines"] if line["means"] == "unit"]
        assert len(lines) >= 3  # the Redis servers hold the same keys
        for line in lines:
            system.run(line["commands"])
        work(system, QUICK)
        freeze(system)
        after = _look(system)
        advised = {line["cgroup"] for line in lines}
        assert set(after.processes.loc[after.processes["merge_any"], "cgroup"]) == advised
        prediction = predict(after, Policy(scope="enabled"))
        system.run(advice["schedule"]["commands"])
        _wait_for_rest(system)
        truth = report(system.guest)
    numbers = counter_numbers(prediction, truth) | process_numbers(prediction, truth, after, {})
    assert unequal(numbers) == {}
    promised = sum(line["profit_bytes"] for line in lines)
    came = contributions(after, prediction)["net_bytes"].sum()
    assert came == pytest.approx(promised, rel=NEAR)


def _look(system: SystemdGuest) -> Snapshot:
    system.guest.qmp("stop")
    snapshot = collect(open_qemu(str(system.monitor)))
    system.guest.qmp("cont")
    return snapshot


def _advise(snapshot: Snapshot, path: Path) -> dict[str, Any]:
    """The answer of the command, about the programs alone."""
    write_snapshot(snapshot, path)
    command = [sys.executable, "-m", "estimator", "advise", str(path), "--json"]
    command += ["--cgroup", f"/{SLICE}", "--scan-time", str(SCAN_SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _wait_for_rest(system: SystemdGuest) -> None:
    """Until what has merged stays the same over some full scans, then stop ksmd."""
    names = ("full_scans", "pages_shared", "pages_sharing", "ksm_zero_pages")
    files = " ".join(f"{KSM}/{name}" for name in names)
    deadline = time.monotonic() + REST_SECONDS
    last, since = [-1], 0
    while True:
        full_scans, *merged = map(int, system.run(f"cat {files}").split())
        if merged != last:
            last, since = merged, full_scans
        if any(merged) and full_scans - since > STABLE_SCANS:
            break
        assert time.monotonic() < deadline, "ksmd does not come to rest"
        time.sleep(1)
    system.guest.write_file(f"{KSM}/run", "0")
