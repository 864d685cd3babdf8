"""The order of the tests: what can be divided among processes without a loss comes last."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.conftest import LAST, pytest_collection_modifyitems

LAB = Path(__file__).with_name("lab")


def test_single_guests_come_last_and_nothing_else_moves() -> None:
    names = ["test_live.py", "test_truth.py", "test_writers.py", "test_saving.py", "test_a.py"]
    items: list[Any] = [SimpleNamespace(path=LAB / name) for name in names]
    pytest_collection_modifyitems(items)
    assert [item.path.name for item in items] == [
        *("test_live.py", "test_writers.py", "test_a.py"),
        *("test_truth.py", "test_saving.py"),
    ]


def test_they_are_there() -> None:
    assert all((LAB / name).exists() for name in LAST)
