"""What every test finds around it, and in which order they run."""

from __future__ import annotations

import os

import pytest

os.environ.pop("COLUMNS", None)  # output is that of a pipe, whoever's shell exports its width

#: Hundreds of guests that have nothing in common, some seconds each.
LAST = ("test_truth.py", "test_saving.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of ``LAST`` to the end, all others as they are.

    With ``--dist worksteal`` a process that has nothing left takes the last half of what another
    has yet to do: these, where nothing is made anew, and not half of the tests that look into one
    guest.
    """
    items.sort(key=lambda item: item.path.name in LAST)
