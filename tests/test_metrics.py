"""The metrics say what the prediction says, to a parser of OpenMetrics, a few series each."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.report.openmetrics import open_metrics
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.metrics import parsed
from tests.systems import Area, Process, fork_server, system

SCRIPTS = Path(__file__).parents[1] / "scripts"


def metrics_of(snapshot: Snapshot, most: int = 20) -> dict[tuple[str, str], float]:
    return parsed(open_metrics(snapshot, predict(snapshot, Policy()), most))


def test_they_are_the_numbers_of_the_prediction() -> None:
    snapshot = fork_server()
    prediction = predict(snapshot)
    found = metrics_of(snapshot)
    physical = prediction.physical
    assert found["frames_freed_bytes", ""] == physical["bytes_saved"]
    assert found["net_bytes", ""] == physical["net_bytes_saved"]
    assert found["general_profit_bytes", ""] == prediction.counters["general_profit"]
    assert found["pages_sharing", ""] == prediction.counters["pages_sharing"]
    assert found["coverage_ratio", ""] == prediction.coverage.hashed_share
    assert found["collected_timestamp_seconds", ""] == 1767225600  # date -d 2026-01-01Z +%s
    assert found["service_net_bytes", "app.service"] > found["service_net_bytes", "batch.service"]


@pytest.mark.parametrize("most", [0, 1, 2, 20])
def test_services_are_few_and_add_up(most: int) -> None:
    found = metrics_of(fork_server(), most)
    names = Counter(name for name, service in found if service)
    assert set(names.values()) == {min(most + 1, 3)}
    whole = sum(n for (name, _), n in found.items() if name == "service_frames_freed_bytes")
    assert whole == pytest.approx(found["frames_freed_bytes", ""])


def test_what_is_not_known_has_no_line() -> None:
    snapshot = system([])
    del snapshot.info["collected_at"]
    assert not {"coverage_ratio", "collected_timestamp_seconds"} & {
        n for n, _ in metrics_of(snapshot)
    }


def test_names_that_would_break_the_text() -> None:
    name = 'a"b\\c\nd' + "e" * 300
    found = metrics_of(system([Process("x", [Area([1, 1])], cgroup=f"/{name}")]))
    (service,) = {service for _, service in found if service}
    assert service.startswith('a"b\\c\\nd')
    assert len(service) == 128


def test_the_file_is_replaced_and_others_can_read_it(tmp_path: Path) -> None:
    write_snapshot(fork_server(), tmp_path / "a.ksm")
    file = tmp_path / "ksm.prom"
    for _ in range(2):
        done = estimator("metrics", tmp_path / "a.ksm", "-o", file)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert file.stat().st_mode & 0o777 == 0o644
    assert file.read_text() == estimator("metrics", tmp_path / "a.ksm").stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ksm", "ksm.prom"]
    gone = estimator("metrics", tmp_path / "a.ksm", "-o", tmp_path / "none" / "x.prom")
    assert gone.returncode == 3
    assert estimator("metrics", tmp_path / "nothing.ksm").returncode == 3


def test_alerts_and_the_dashboard_ask_for_metrics_that_there_are() -> None:
    text = open_metrics(fork_server(), predict(fork_server()), 20)
    there = set(re.findall(r"^# TYPE (\S+)", text, re.M))
    rules = (SCRIPTS / "prometheus/ksm-estimator.rules.yml").read_text()
    dashboard = json.loads((SCRIPTS / "prometheus/ksm-estimator.dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for source in (rules, "\n".join(asked)):
        names = set(re.findall(r"ksm_estimator_\w+", source))
        assert names
        assert names <= there


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for unit in (SCRIPTS / "systemd").iterdir():
        text = unit.read_text().replace("/usr/local/bin/ksm-estimator", "/bin/true")  # is there
        (tmp_path / unit.name).write_text(text)

    def verify() -> subprocess.CompletedProcess[str]:
        command = ["systemd-analyze", "verify", "--man=no", *map(str, tmp_path.iterdir())]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    done = verify()
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) not in done.stderr  # other units of the system may be complained about
    service = tmp_path / "ksm-estimator-metrics.service"
    service.write_text(service.read_text().replace("MemoryMax=2G", "MemoryMax=lots"))
    assert "lots" in verify().stderr


def test_the_policy_says_0_and_1_as_the_kernel_does() -> None:
    snapshot = fork_server()
    for zero_pages, label in ((True, "1"), (False, "0")):
        policy = Policy(use_zero_pages=zero_pages)
        text = open_metrics(snapshot, predict(snapshot, policy), 20)
        assert f'use_zero_pages="{label}"' in text
        assert 'merge_across_nodes="1"' in text


def test_the_units_commands_are_ones_that_exist() -> None:
    text = (SCRIPTS / "systemd/ksm-estimator-metrics.service").read_text()
    commands = re.findall(r"^ExecStart=/usr/local/bin/ksm-estimator (.*)$", text, re.M)
    assert [line.split()[0] for line in commands] == ["collect", "metrics"]
    for line in commands:
        done = estimator(*line.split(), "--help")  # options before it are parsed
        assert done.returncode == 0, done.stderr


def test_the_unit_limits_what_it_takes() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(SCRIPTS / "systemd/ksm-estimator-metrics.service")
    service = unit["Service"]
    assert service["ProtectSystem"] == "strict"
    assert service["RuntimeDirectoryMode"] == "0700"
    assert {"CPUQuota", "MemoryMax"} <= set(service)
    assert service["CapabilityBoundingSet"].split() == [
        "CAP_SYS_ADMIN",
        "CAP_SYS_PTRACE",
        "CAP_DAC_READ_SEARCH",
    ]
