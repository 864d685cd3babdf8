"""What scripts/bench stands on: programs given to other processes as text, a snapshot made up."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

from estimator.ksm.predict import predict
from estimator.snapshot.checks import check_snapshot
from scripts import bench_against, bench_compressed, bench_dump, bench_procfs, bench_running
from scripts.bench_predict import synthetic

PROGRAMS = [
    (module.__name__, name, text)
    for module in (bench_compressed, bench_dump, bench_procfs, bench_running)
    for name, text in vars(module).items()
    if isinstance(text, str) and text.startswith("\nimport")
]


def test_programs_are_found() -> None:
    assert len(PROGRAMS) >= 7


@pytest.mark.parametrize(("module", "name", "text"), PROGRAMS)
def test_what_they_import_exists(module: str, name: str, text: str) -> None:
    for statement in ast.walk(ast.parse(text)):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                import_module(alias.name)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            for alias in statement.names:
                found = import_module(statement.module)
                if not hasattr(found, alias.name):
                    import_module(f"{statement.module}.{alias.name}")


def test_its_snapshot_is_sound_and_can_be_predicted() -> None:
    snapshot = synthetic(30_000)
    check_snapshot("bench.ksm", snapshot)
    prediction = predict(snapshot)
    assert prediction.counters["pages_shared"] > 0


def test_a_version_that_lacks_a_command_is_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one here is a program that knows `predict` alone, and takes a while."""
    theirs = tmp_path / "other"
    theirs.write_text('#!/bin/sh\n[ "$1" = predict ] && sleep 0.2\n')
    ours = tmp_path / "ours"
    ours.write_text("#!/bin/sh\n")
    for program in (theirs, ours):
        program.chmod(0o755)
    monkeypatch.setattr(bench_against, "_OURS", str(ours))
    measure = bench_against._measure
    predict, advise = (bench_against.Command(name, (name,)) for name in ("predict", "advise"))
    seconds, other_seconds, ratio, *_ = map(float, measure(predict, str(theirs), tmp_path, 2))
    assert ratio < 1
    assert seconds < other_seconds
    assert measure(advise, str(theirs), tmp_path, 2)[1:] == ["can't"]
