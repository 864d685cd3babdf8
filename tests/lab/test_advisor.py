"""The scan-time advisor: pages_to_scan as a real kernel sets it, scan after scan."""

from __future__ import annotations

import re
import time

import pytest

from estimator.advice.advisor import AdvisorSettings, AdvisorState, advise_scan_time
from tests.lab.conftest import again, lab_kernel
from tests.lab.guest import Guest
from tests.lab.programs import build
from tests.lab.truth import KSM
from tests.lab.workload import Session, Workload

pytestmark = pytest.mark.lab

TRACING = "/sys/kernel/tracing"
EVENT = re.compile(r"ksm_advisor: ksm scan time (\d+) pages_to_scan (\d+) cpu percent (\d+)")
STEPS = 8
SETTINGS = AdvisorSettings(target_scan_time=2, max_cpu=12, max_pages_to_scan=3000)
PROCESS = "map data 12000\nfill data own\nadvise data mergeable"
SLEEP_MILLISECS = 100
PATIENCE_SECONDS = 600.0  # eight scans take half a minute; only what hangs should end so


@pytest.mark.parametrize("series", [again("6.12"), "7.3"])
def test_pages_to_scan_as_the_kernel_sets_it(series: str) -> None:
    """Each step starts from the pages_to_scan foretold, with what the kernel measured of a scan."""
    workload = Workload("advisor", (), ksm={"smart_scan": 0, "sleep_millisecs": SLEEP_MILLISECS})
    programs = {f"/bin/{name}": build(name) for name in ("actor", "probe")}
    with Guest(lab_kernel(series), files=programs) as guest:
        session = Session(guest, workload)
        session.set_up()
        session.start(PROCESS)
        guest.run(f"mount -t tracefs tracefs {TRACING}")
        guest.run(f"echo 1 > {TRACING}/events/ksm/ksm_advisor/enable")
        for name, value in vars(SETTINGS).items():
            guest.write_file(f"{KSM}/advisor_{name}", str(value))
        guest.run(f"echo scan-time > {KSM}/advisor_mode; echo 1 > {KSM}/run")
        seen = _steps(guest)
    state = AdvisorState(SETTINGS.min_pages_to_scan)
    for scan_seconds, pages_to_scan, cpu_percent in seen:
        cpu_seconds = (cpu_percent + 0.5) / 100 * scan_seconds
        state = advise_scan_time(state, SETTINGS, scan_seconds, cpu_seconds)
        assert state.pages_to_scan == pages_to_scan
    assert len({pages for _, pages, _ in seen}) > 2
    assert len({seconds for seconds, _, _ in seen}) > 1


def _steps(guest: Guest) -> list[tuple[int, int, int]]:
    """Seconds, pages_to_scan after it, and percent of a CPU of the first ``STEPS`` scans."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1)
        found = EVENT.findall(guest.run(f"head -n 100 {TRACING}/trace"))
        if len(found) >= STEPS:
            return [(int(a), int(b), int(c)) for a, b, c in found[:STEPS]]
    raise AssertionError(f"fewer than {STEPS} full scans: {found}")
