"""Where nobody takes part there is an answer, and no failure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.systems import Area, Process, system

NOBODY = {
    "no process": [],
    "not opted in": [Process("web", [Area([1, 1, 2], mergeable=False)], cgroup="/a.service")],
}


@pytest.mark.parametrize("processes", NOBODY.values(), ids=NOBODY.keys())
def test_every_command_answers(processes: list[Process], tmp_path: Path) -> None:
    path = tmp_path / "nobody.ksm"
    write_snapshot(system(processes), path)
    page = tmp_path / "report.html"
    for command in (
        ["predict", path, "--json"],
        ["report", path],
        ["report", path, "--html", page],
        ["advise", path, "--within", "uid"],
        ["advise", path, "--json"],
        ["compare", path, path],
    ):
        done = estimator(*command, "--scope", "enabled")
        assert (done.returncode, "internal error" in done.stderr) == (0, False), done.stderr
        if "--json" in command:
            json.loads(done.stdout)
        elif command[0] != "compare" and page not in command:
            assert "ksmd finds nothing to scan" in done.stdout
    assert "ksmd finds nothing to scan" in page.read_text()
    assert "<figure" not in page.read_text()
