"""The examples in docstrings."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from estimator.advice import attribution as sharing
from estimator.report import units


@pytest.mark.parametrize("module", [sharing, units], ids=lambda module: module.__name__)
def test_examples_say_what_they_do(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
