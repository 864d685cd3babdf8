"""A fleet in S3: a server on loopback that speaks its protocol, and two that do not answer."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from estimator.ksm.predict import predict
from tests.commands import HOME
from tests.fleets import host, write_fleet

HOSTS = 4
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Its address."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    address, port = running.get_host_and_port()
    yield f"http://{address}:{port}"
    running.stop()


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of one that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def report(endpoint: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """``fleet report`` with one worker, where S3 is at ``endpoint``."""
    line = [sys.executable, "-m", "estimator", "fleet", "report", "--workers", "1"]
    environment = HOME | KEYS | {"AWS_ENDPOINT_URL": endpoint, "PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(
        [*line, *map(str, arguments)], capture_output=True, text=True, timeout=400, env=environment
    )


def test_a_bucket_is_a_directory(server: str, tmp_path: Path) -> None:
    import s3fs

    store = s3fs.S3FileSystem(key="a", secret="b", endpoint_url=server)
    store.mkdir("snapshots")
    store.put(str(write_fleet(tmp_path / "fleet", HOSTS)), "snapshots/site/", recursive=True)
    half = next(
        path for path in store.find("snapshots/site") if path.endswith("h3.ksm/frames.parquet")
    )
    store.rm(half)
    kept = tmp_path / "a.fleet"
    asked = ["s3://snapshots/site", "-o", kept, "--json", "--min-coverage", 0]
    first = report(server, *asked)
    assert first.returncode == 0, first.stderr
    answer = json.loads(first.stdout)
    assert answer["totals"]["net_bytes"] == sum(
        predict(host(number)).physical["net_bytes_saved"] for number in range(HOSTS - 1)
    )
    (left_out,) = answer["left_out"]
    assert left_out["place"].endswith("h3.ksm")
    assert "frames.parquet" in left_out["problem"]
    again = report(server, *asked)
    assert json.loads(again.stdout) == answer
    assert len([*kept.glob("part-*")]) == 1  # nothing was read again
    for missing in ("s3://snapshots/elsewhere", "s3://nobodys-bucket"):
        told = report(server, missing)
        assert (told.returncode, told.stdout) == (3, "")
        assert told.stderr.startswith(f"ksm-estimator: {missing} does not exist")
        assert told.stderr.count("\n") == 1


def test_a_server_that_says_nothing(silent: str) -> None:
    told = report(silent, "s3://snapshots/site", "--timeout", "1s")
    assert (told.returncode, told.stdout) == (3, "")
    assert told.stderr == (
        "ksm-estimator: s3://snapshots/site: the storage did not answer in 1 s; "
        "wait longer with --timeout SECONDS\n"
    )


def test_no_server() -> None:
    told = report("http://127.0.0.1:9", "s3://snapshots/site", "--timeout", "60s")
    assert (told.returncode, told.stdout) == (3, "")
    assert told.stderr.count("\n") == 1
    assert "s3://snapshots/site" in told.stderr
    assert "can't be listed" in told.stderr or "did not answer" in told.stderr
