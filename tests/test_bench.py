"""What scripts/bench stands on: programs given to other processes as text, a snapshot made up."""

from __future__ import annotations

import ast
from importlib import import_module

import pytest

from estimator.ksm.predict import predict
from estimator.snapshot.checks import check_snapshot
from scripts import bench_compressed, bench_dump, bench_procfs
from scripts.bench_predict import synthetic

PROGRAMS = [
    (module.__name__, name, text)
    for module in (bench_compressed, bench_dump, bench_procfs)
    for name, text in vars(module).items()
    if isinstance(text, str) and text.startswith("\nimport")
]


def test_programs_are_found() -> None:
    assert len(PROGRAMS) >= 6


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
