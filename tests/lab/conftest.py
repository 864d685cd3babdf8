"""The lab for tests: guests that boot here, or a reason why not."""

from __future__ import annotations

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


@pytest.fixture
def lab() -> Iterator[RunWorkload]:
    """Run a workload on a kernel of a series; its vmcores are deleted when the test is over."""
    directory = Path(tempfile.mkdtemp(prefix="ksm-lab-dump."))

    def run(workload: Workload, series: str) -> LabResult:
        return run_workload(workload, lab_kernel(series), directory / "vmcore")

    yield run
    shutil.rmtree(directory)
