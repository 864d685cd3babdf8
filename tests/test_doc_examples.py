"""The examples in docstrings."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from estimator import units
from estimator.ksm import policy, predict
from estimator.snapshot import names
from tests.systems import Area, Process, system

SNAPSHOT = system([Process("web", [Area([1, 2, 3])]), Process("web", [Area([1, 2, 4])])])


@pytest.mark.parametrize(
    "module",
    [names, units, policy, predict],
    ids=lambda module: module.__name__,
)
def test_examples_say_what_they_do(module: ModuleType) -> None:
    found = doctest.testmod(module, extraglobs={"snapshot": SNAPSHOT})
    assert found.attempted > 0
    assert found.failed == 0
