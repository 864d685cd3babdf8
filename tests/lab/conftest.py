"""The lab for tests: guests that boot here, or a reason why not."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.kernels import Kernel, LabError, ensure_tools, fetch_kernel
from tests.lab.workload import LabResult, Workload, run_workload

RunWorkload = Callable[[Workload, str], LabResult]


@functools.cache
def lab_kernel(series: str) -> Kernel:
    """A kernel that boots here; skips the test if that is impossible, but fails it under CI."""
    try:
        if platform.machine() != "x86_64":
            raise LabError(f"the lab's kernels are for x86_64, this is {platform.machine()}")
        ensure_tools()
        return fetch_kernel(series)
    except LabError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no guest can be booted: {error}")
        pytest.skip(f"no guest can be booted: {error}")


@contextlib.contextmanager
def _dumps() -> Iterator[Path]:
    """A directory for vmcores, which are too big to be kept."""
    directory = Path(tempfile.mkdtemp(prefix="ksm-lab-dumps."))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def lab() -> Iterator[RunWorkload]:
    """Run a workload on a kernel of a series; its vmcores are deleted when the test is over."""
    with _dumps() as directory:
        yield lambda workload, series: run_workload(
            workload, lab_kernel(series), directory / "vmcore"
        )


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[RunWorkload]:
    """Like ``lab``, for tests that need the same result: run once, deleted when all are over."""
    results: dict[tuple[str, str], LabResult] = {}
    with _dumps() as directory:

        def run(workload: Workload, series: str) -> LabResult:
            key = (workload.name, series)
            if key not in results:
                vmcore = directory / f"{workload.name}-{series}"
                results[key] = run_workload(workload, lab_kernel(series), vmcore)
            return results[key]

        yield run
