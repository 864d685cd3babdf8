"""The lab for tests: guests that boot here, or a reason why not."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from tests.lab import dumps
from tests.lab.apt import LabError
from tests.lab.kernels import (
    FROM_SOURCE,
    Kernel,
    ensure_tools,
    fetch_kernel,
    is_cached,
    machine_of,
)
from tests.lab.workload import LabResult, Workload, run_workload

RunWorkload = Callable[[Workload, str], LabResult]


def again(*values: object) -> ParameterSet:
    """Parameters that are left out unless all is asked for: ``./scripts/test -m ''``."""
    return pytest.param(*values, marks=pytest.mark.again)


def newest_and_oldest(kernels: Sequence[str]) -> list[str | ParameterSet]:
    """The ``kernels``; those in between are left out unless all is asked for."""
    return [kernels[0], *map(again, kernels[1:-1]), kernels[-1]]


@functools.cache
def lab_kernel(series: str) -> Kernel:
    """A kernel that boots here; skips the test if that is impossible, but fails it under CI."""
    try:
        if platform.machine() != "x86_64":
            raise LabError(f"the lab's guests run on x86_64, this is {platform.machine()}")
        if series in FROM_SOURCE and not is_cached(series):
            pytest.skip(
                f"{series} is built from source, which takes some 15 minutes: "
                f"./scripts/proof --arch arm64 --series {series} --out FILE does it"
            )
        ensure_tools(machine_of(series))
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


@pytest.fixture(scope="session")
def moment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of what ``dump_from_qemu`` writes, of the kernel ``dumps.SERIES``."""
    kernel = lab_kernel(dumps.SERIES)
    with dumps.shared_directory(
        tmp_path_factory, "qemu-dumps", lambda path: dumps.dump_from_qemu(kernel, path)
    ) as directory:
        yield directory


def findings(
    *options: Path | str, environment: Mapping[str, str] | None = None
) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and findings of ``check``."""
    command = [sys.executable, "-m", "estimator", "check", "--json", *map(str, options)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert found["exit_code"] == done.returncode
    assert done.stderr == ""
    return done.returncode, found["findings"]


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
