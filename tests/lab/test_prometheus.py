"""Debian's Prometheus and node_exporter read what ``metrics`` writes, on loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from estimator.ksm.predict import predict
from estimator.report.openmetrics import open_metrics
from tests.lab.apt import Apt, unpack
from tests.systems import fork_server

pytestmark = pytest.mark.lab
RULES = Path(__file__).parents[2] / "scripts/prometheus/ksm-estimator.rules.yml"
SECONDS = 300.0  # only what hangs should end so


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs of both packages are; nothing is installed."""
    place = tmp_path_factory.mktemp("prometheus")
    Apt().download("prometheus", "prometheus-node-exporter", into=place)
    for package in place.glob("*.deb"):
        unpack(package, place)
    return place / "usr/bin"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def running(*command: object) -> Iterator[None]:
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def get(url: str) -> Any:
    """The answer at ``url``, as soon as somebody answers."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.read().decode()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.3)


def test_scraped_queried_and_alerted(programs: Path, tmp_path: Path) -> None:
    snapshot = fork_server()
    prediction = predict(snapshot)
    text = open_metrics(snapshot, prediction, 20)
    (tmp_path / "text").mkdir()
    (tmp_path / "text/ksm.prom").write_text(text)
    rules = RULES.read_text().replace("for: 6h", "for: 0s")
    (tmp_path / "rules.yml").write_text(rules)
    subprocess.run([programs / "promtool", "check", "rules", RULES], check=True)
    exporter, prometheus = free_port(), free_port()
    (tmp_path / "prometheus.yml").write_text(
        f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
scrape_configs:
  - job_name: node
    static_configs: [{{targets: ["127.0.0.1:{exporter}"]}}]
"""
    )
    node = (
        programs / "prometheus-node-exporter",
        f"--web.listen-address=127.0.0.1:{exporter}",
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={tmp_path / 'text'}",
    )
    server = (
        programs / "prometheus",
        f"--web.listen-address=127.0.0.1:{prometheus}",
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
    )
    base = f"http://127.0.0.1:{prometheus}/api/v1"

    def ask(expression: str) -> dict[str, float]:
        url = f"{base}/query?query={urllib.parse.quote(expression)}"
        found = json.loads(get(url))["data"]["result"]
        return {one["metric"].get("service", ""): float(one["value"][1]) for one in found}

    with running(*node), running(*server):
        assert "node_textfile_scrape_error 0" in get(f"http://127.0.0.1:{exporter}/metrics")
        end = time.monotonic() + SECONDS
        while not (net := ask("ksm_estimator_net_bytes")) and time.monotonic() < end:
            time.sleep(0.5)
        assert net == {"": prediction.physical["net_bytes_saved"]}
        services = ask("ksm_estimator_service_frames_freed_bytes")
        assert sum(services.values()) == pytest.approx(prediction.physical["bytes_saved"])
        firing: set[str] = set()
        while "KsmEstimateIsOld" not in firing and time.monotonic() < end:
            alerts = json.loads(get(f"{base}/alerts"))["data"]["alerts"]
            firing = {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}
            time.sleep(0.5)
    assert firing == {"KsmWouldPay", "KsmEstimateIsOld"}  # of January; ksmd is not known there
