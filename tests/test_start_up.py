"""``check`` counts what starting takes into the time of a collection."""

from __future__ import annotations

import subprocess
import sys
import time

from estimator.collect.findings import Findings
from estimator.collect.start_up import seconds_since_start

_CHILD = """
import sys, time
time.sleep(0.3)
from estimator.collect.start_up import seconds_since_start
print(seconds_since_start())
"""


def test_the_time_since_the_process_started_is_its_own() -> None:
    before = time.monotonic()
    told = subprocess.run([sys.executable, "-c", _CHILD], check=True, capture_output=True)
    assert 0.28 < float(told.stdout) < time.monotonic() - before + 0.02
    assert float(told.stdout) < seconds_since_start()


def test_the_time_to_start_is_part_of_the_whole() -> None:
    findings = Findings()
    findings.add_time(4.0, 71.0, "one core")
    (found,) = findings.found
    assert found.text == "about 1 min 15 s on one core, 4 s of it to start"
    assert found.facts == {"seconds": 75.0, "start_up_seconds": 4.0}
