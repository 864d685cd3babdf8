"""What every test finds around it, and in which order they run."""

from __future__ import annotations

import os

import pytest
from _pytest.terminal import TerminalReporter

from tests.lab.guest import LOST_TO_EMULATION

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


#: The exit status where nothing but guests lost to emulation failed (EX_TEMPFAIL of sysexits.h).
ASK_AGAIN = 75


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Say that it is worth another try (``scripts/test`` makes one)."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if isinstance(reporter, TerminalReporter):  # a worker of xdist has none
        failed = reporter.stats.get("failed", []) + reporter.stats.get("error", [])
        if failed and all(LOST_TO_EMULATION in report.longreprtext for report in failed):
            session.exitstatus = ASK_AGAIN
