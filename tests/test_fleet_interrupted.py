"""Ctrl-C while a fleet is read: one line, nothing half written, and it goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from estimator.ksm.predict import predict
from tests.fleets import host, write_fleet

HOSTS = 200
SECONDS = 240
OFTEN = """
import runpy, sys
from estimator.fleet import run
run._PART_SECONDS = 0.5
sys.argv[0] = "estimator"
runpy.run_module("estimator", run_name="__main__")
"""


def large_fleet(directory: Path) -> Path:
    """Some hundred hosts: a few, and links to their tables under other names."""
    few = write_fleet(directory / "few", 4)
    fleet = directory / "fleet"
    for number in range(HOSTS):
        place = fleet / f"h{number:03}.ksm"
        place.mkdir(parents=True, mode=0o700)
        original = few / f"h{number % 4}.ksm"
        for file in original.glob("*.parquet"):
            os.link(file, place / file.name)
        info = json.loads((original / "snapshot.json").read_text())
        about = {"host": f"web{number}", "boot_id": f"b{number}", "machine_id": f"m{number}"}
        (place / "snapshot.json").write_text(json.dumps(info | about))
    return fleet


def test_ctrl_c_and_on(tmp_path: Path) -> None:
    fleet, kept = large_fleet(tmp_path), tmp_path / "a.fleet"
    page, table = tmp_path / "a.html", tmp_path / "a.parquet"
    command = [sys.executable, "-c", OFTEN, "fleet", "report", fleet, "-o", kept]
    command += ["--workers", "2", "--html", page, "--parquet", table, "--json"]
    running = subprocess.Popen(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + SECONDS
    while not (kept / "part-000001").exists():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    told, complaints = running.communicate(timeout=SECONDS)
    assert (running.returncode, told) == (130, "")
    assert complaints == (
        f"ksm-estimator: interrupted; what was found is in {kept}: the same command goes on there\n"
    )
    assert not page.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.fleet", "few", "fleet"]
    assert not [*kept.glob(".part-*")]
    before = rows(kept)
    assert 0 < len(before) < HOSTS
    again = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=SECONDS)
    assert again.returncode == 0, again.stderr
    answer = json.loads(again.stdout)
    assert answer["coverage"]["hosts"] == HOSTS
    whole = rows(kept)
    assert len(whole) == HOSTS  # nobody was read twice
    assert {place: whole[place] for place in before} == before
    alone = [predict(host(number)).physical["net_bytes_saved"] for number in range(4)]
    assert answer["totals"]["net_bytes"] == sum(alone) * HOSTS // 4
    assert pq.read_metadata(table).num_rows == 3 * HOSTS


def rows(kept: Path) -> dict[str, str]:
    """The key of each reading, by place; each place once."""
    found = [
        (row["place"], row["key"])
        for part in kept.glob("part-*")
        for row in pq.read_table(part / "hosts.parquet").to_pylist()
    ]
    assert len({place for place, _ in found}) == len(found)
    return dict(found)
