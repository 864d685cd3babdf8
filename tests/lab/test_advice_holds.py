"""What `advise` prints is done in a guest as printed: those opt in, the saving comes.

Drop-ins of services; a program that is started by the launcher or by systemd-run; madvise() in a
program's own code. The metrics' service says the same saving, started in one of these guests.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
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
from tests.lab.conftest import again, lab_kernel
from tests.lab.real_programs import PROGRAMS, SLICE, freeze, start, work
from tests.lab.systemd_guest import ENVIRONMENT, SystemdGuest, systemd_guest
from tests.lab.truth import KSM, STABLE_SCANS, report
from tests.metrics import parsed

pytestmark = pytest.mark.lab

QUICK = [program for program in PROGRAMS if program.quick]
SCAN_SECONDS = "5"
REST_SECONDS = 900.0
NEAR = 0.05
"""By how much the saving may differ from the promise: it is of processes that started anew."""


def test_the_advice_holds(tmp_path: Path) -> None:
    with systemd_guest(lab_kernel("7.3"), tmp_path) as system:
        start(system, QUICK, memory_ksm=False)
        before = _look(system)
        assert not before.processes["merge_any"].any()
        advice = _advise(before, tmp_path / "before.ksm", "--cgroup", f"/{SLICE}")
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


HOLDER = "/opt/programs/holder.py"
HOLDERS, CACHE_MIB = 3, 16
ARGUMENTS = f"{HOLDER} {CACHE_MIB}"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemdGuest]:
    """A guest where no service runs."""
    with systemd_guest(lab_kernel("7.3"), tmp_path_factory.mktemp("host")) as system:
        yield system


@pytest.fixture
def plain(host: SystemdGuest) -> Iterator[SystemdGuest]:
    """With programs whose caches are equal, not opted in; nothing is merged."""
    _start_holders(host, f"python3 {ARGUMENTS}")
    yield host
    _stop_holders(host)
    host.run(f"echo 2 > {KSM}/run; until grep -qx 0 {KSM}/pages_shared; do sleep 1; done")
    host.guest.write_file(f"{KSM}/run", "0")


@pytest.mark.parametrize("by", ["launcher", again("systemd-run")])
def test_the_advice_for_a_program_holds(plain: SystemdGuest, by: str, tmp_path: Path) -> None:
    before = _look(plain)
    advice = _advise(before, tmp_path / "before.ksm", "--only", "prctl", "--comm", "python3*")
    (line,) = advice["lines"]
    pattern = "^# or as a service: (.*)" if by == "systemd-run" else "^(python3 .*)"
    found = re.search(pattern, line["commands"], re.MULTILINE)
    assert found
    _stop_holders(plain)
    _start_holders(plain, found[1].replace("ARGUMENTS...", ARGUMENTS), wait=by == "launcher")
    after = _look(plain)
    holders = after.processes["cmdline"].str.contains(HOLDER, na=False)
    assert int(holders.sum()) == HOLDERS
    assert after.processes.loc[holders, "merge_any"].all()
    _saves(plain, advice, line, after)


def test_the_advice_for_a_vma_holds(plain: SystemdGuest, tmp_path: Path) -> None:
    before = _look(plain)
    advice = _advise(before, tmp_path / "before.ksm", "--only", "madvise", "--comm", "python3*")
    line = max(advice["lines"], key=lambda line: line["profit_bytes"])
    assert line["name"].startswith("(anonymous, "), advice["lines"]
    assert "madvise(start, length, MADV_MERGEABLE);" in line["commands"]
    _stop_holders(plain)
    _start_holders(plain, f"python3 {ARGUMENTS} madvise")
    _saves(plain, advice, line, _look(plain))


UNITS = Path(__file__).parents[2] / "scripts/systemd"
CAPABILITIES = 1 << 2 | 1 << 19 | 1 << 21  # DAC_READ_SEARCH, SYS_PTRACE, SYS_ADMIN
TEXTFILES = "/var/lib/prometheus/node-exporter"
PROBE = f"""[Service]
TimeoutStartSec=infinity
CPUQuota=400%
ExecStartPost=/bin/sh -c '! touch /etc/probe && ! touch /var/lib/probe && ! touch ~root/probe'
ExecStartPost=/bin/sh -c 'cd /sys/fs/cgroup/system.slice/ksm-estimator-metrics.service && \\
  cat cpu.max memory.max > {TEXTFILES}/probe && grep CapEff: /proc/self/status >> {TEXTFILES}/probe'
"""


def test_the_service_writes_the_metrics(plain: SystemdGuest, tmp_path: Path) -> None:
    """Installed as docs/metrics.md says, in directories as Debian's node_exporter has them."""
    name = "ksm-estimator-metrics"
    for unit in UNITS.iterdir():
        plain.guest.write_file(f"/etc/systemd/system/{unit.name}", unit.read_text())
    plain.run(f"mkdir -p {TEXTFILES} && chown redis:redis /var/lib/prometheus")
    quota = plain.run(f"systemctl show -p CPUQuotaPerSecUSec {name}.service").strip()
    assert quota == "CPUQuotaPerSecUSec=500ms"  # emulated, that takes too long
    plain.run(f"mkdir -p /run/systemd/system/{name}.service.d")
    plain.guest.write_file(f"/run/systemd/system/{name}.service.d/probe.conf", PROBE)
    program = f"#!/bin/sh\nexec env {ENVIRONMENT} python3 -m estimator"
    plain.run(f"printf '{program} \"$@\"\\n' > /usr/local/bin/ksm-estimator")
    plain.run("chmod 755 /usr/local/bin/ksm-estimator && systemctl daemon-reload")
    plain.run(f"systemctl enable --now {name}.timer")
    _, next_run = plain.run(f"systemctl show -p NextElapseUSecRealtime {name}.timer").split("=", 1)
    assert next_run.strip()
    log = f"journalctl -u {name} --no-pager; systemctl status {name} --no-pager -l; false"
    plain.run(f"systemctl start {name}.service || {{ {log}; }}")
    found = parsed(plain.run(f"cat {TEXTFILES}/ksm-estimator.prom"))
    assert plain.run(f"stat -c '%a %U' {TEXTFILES}/ksm-estimator.prom").split() == ["644", "root"]
    assert found["coverage_ratio", ""] > 1 - NEAR
    now = predict(_look(plain)).physical["bytes_saved"]
    assert now > (HOLDERS - 1) * CACHE_MIB * 2**20
    assert found["frames_freed_bytes", ""] == pytest.approx(now, rel=NEAR)
    plain.run("! test -e /run/ksm-estimator")  # the hashes are gone
    limits = plain.run(f"cat {TEXTFILES}/probe").split()
    assert limits == ["400000", "100000", str(2 * 2**30), "CapEff:", f"{CAPABILITIES:016x}"]
    plain.run(f"systemctl disable --now {name}.timer")


def _start_holders(system: SystemdGuest, command: str, *, wait: bool = True) -> None:
    """Three of them by ``command``, until all have filled their caches."""
    for number in range(HOLDERS):
        system.run(f"{command} > /tmp/holder-{number} 2>&1 {'&' if wait else ''}")
    rss = f"for p in $(pgrep -f '^[^ ]*python3[.0-9]* {HOLDER}'); do"
    full = (
        f"{rss} awk '/^Anonymous:/ && $2 > {CACHE_MIB * 1024} {{ print }}' /proc/$p/smaps_rollup;"
    )
    system.run(f"until [ $({full} done | wc -l) = {HOLDERS} ]; do sleep 1; done")
    system.run(f"pkill -STOP -f {HOLDER}")


def _stop_holders(system: SystemdGuest) -> None:
    system.run(f"pkill -KILL -f {HOLDER}; while pgrep -f {HOLDER}; do sleep 0.2; done")


def _saves(
    system: SystemdGuest, advice: dict[str, Any], line: dict[str, Any], after: Snapshot
) -> None:
    """By ksmd's own account, with the settings of ``advice``, what was promised for ``line``.

    Its counters are not compared one by one: a page of each program merges and comes apart again
    and again, also while the program is stopped.
    """
    assert predict(after, Policy(scope="enabled")).counters["pages_sharing"] > 0
    system.run(advice["schedule"]["commands"])
    _wait_for_rest(system, within_pages=2 * HOLDERS)
    (profit,) = map(int, system.run(f"cat {KSM}/general_profit").split())
    assert line["profit_bytes"] > 0
    assert profit == pytest.approx(line["profit_bytes"], rel=NEAR)


def _look(system: SystemdGuest) -> Snapshot:
    system.guest.qmp("stop")
    snapshot = collect(open_qemu(str(system.monitor)))
    system.guest.qmp("cont")
    return snapshot


def _advise(snapshot: Snapshot, path: Path, *options: str) -> dict[str, Any]:
    """The answer of the command, with these options."""
    write_snapshot(snapshot, path)
    command = [sys.executable, "-m", "estimator", "advise", str(path), "--json", *options]
    command += ["--scan-time", SCAN_SECONDS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _wait_for_rest(system: SystemdGuest, within_pages: int = 0) -> None:
    """Until what has merged stays the same over some full scans, then stop ksmd.

    ``within_pages``: by how many pages a counter may differ from what it was at first.
    """
    names = ("full_scans", "pages_shared", "pages_sharing", "ksm_zero_pages")
    files = " ".join(f"{KSM}/{name}" for name in names)
    deadline = time.monotonic() + REST_SECONDS
    last: list[int] = []
    since = 0
    while True:
        full_scans, *merged = map(int, system.run(f"cat {files}").split())
        if not last or any(
            abs(now - before) > within_pages for now, before in zip(merged, last, strict=True)
        ):
            last, since = merged, full_scans
        if any(merged) and full_scans - since > STABLE_SCANS:
            break
        assert time.monotonic() < deadline, "ksmd does not come to rest"
        time.sleep(1)
    system.guest.write_file(f"{KSM}/run", "0")
