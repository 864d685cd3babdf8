"""What is found of a fleet, written whole whenever an interrupt comes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from estimator.fleet import results as module
from estimator.fleet.one_host import HostRows, Question
from estimator.fleet.results import Part, Results
from estimator.ksm.policy import Policy
from estimator.snapshot.store import write_snapshot
from tests.commands import with_files_of_at_most
from tests.each_line import ended_by
from tests.systems import fork_server

SERVICES = {"a": 3, "b": 2}


def rows_of(key: str) -> tuple[dict[str, Any], HostRows]:
    """A host with some services."""
    services = pd.DataFrame({"service": [f"s{n}" for n in range(SERVICES[key])], "processes": 1})
    numbers = [name for name in module.SERVICES.names if name not in ("key", "host", "service")]
    services = services.assign(**dict.fromkeys(numbers, 1))
    families = pd.DataFrame({"kept": [True], "family": ["f"], "bytes": [1]})
    return {"key": key, "place": f"/{key}", "host": key}, HostRows({}, services, families)


def interrupted_at(step: int, work: Callable[[], None]) -> bool:
    """Do ``work`` as far as line number ``step`` of the module: whether it came so far."""
    seen = 0

    def at_line(_: FrameType) -> None:
        nonlocal seen
        seen += 1
        if seen == step:
            raise KeyboardInterrupt

    return ended_by({module.__file__}, at_line, work)


def test_a_host_is_there_with_all_of_its_services_or_not_at_all(tmp_path: Path) -> None:
    rows = [rows_of(key) for key in SERVICES]
    steps = 0
    while True:
        steps += 1
        results = Results(tmp_path / f"{steps}.fleet", Question(Policy(), "unit", 150.0))
        part = Part()

        def work(part: Part = part, results: Results = results) -> None:
            for host, found in rows:
                part.add(host, found)
            results.write(part)

        interrupted = interrupted_at(steps, work)
        results.write(part)
        hosts = results.hosts()["key"].tolist()
        written = [pq.read_table(p / "services.parquet") for p in results.parts()]
        keys = [key for table in written for key in table["key"].to_pylist()]
        assert sorted(keys) == sorted(key for key in hosts for _ in range(SERVICES[key]))
        assert not [*results.path.glob(".part-*")]
        if not interrupted:
            break
    assert steps > 30
    assert hosts == list(SERVICES)


@pytest.mark.parametrize("command", ["sketch", "report"])
def test_what_does_not_fit_leaves_nothing_and_says_why(command: str, tmp_path: Path) -> None:
    path, out = tmp_path / "a.ksm", tmp_path / "out"
    made = fork_server()
    made.info["hash"] = {"name": "xxh3_64", "seed": 77, "seed_id": "a"}
    write_snapshot(made, path)
    out.mkdir()
    done = with_files_of_at_most(0, "fleet", command, path, "-o", f"{out}/found")
    assert done.returncode == 3
    assert done.stderr.startswith(f"ksm-estimator: {out}/found can't be written: ")
    assert "File too large" in done.stderr
    assert list(out.iterdir()) == []
