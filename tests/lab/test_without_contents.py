"""A dump without user pages is refused, and answers what it can if asked without contents."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from estimator.errors import CannotAnswerError
from estimator.kernel.collect import collect_core
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.upper_bound import upper_bound
from estimator.snapshot.flags import FrameFlag, Unknown
from estimator.snapshot.snapshot import Snapshot
from tests.lab.conftest import again, lab_kernel
from tests.lab.leave_out import leave_out_of_elf, leave_out_of_kdump
from tests.lab.makedumpfile import headers_where_makedumpfile_looks, makedumpfile
from tests.lab.workload import Workload, run_workload

pytestmark = pytest.mark.lab

SERIES = ("7.3", "6.1")
FILTERED_BY_ITS_LIKE = "6.1"  # the last of these that Debian 12's makedumpfile knows

FORKED = """
    map data 1200
    fill data list 1
    advise data mergeable
    fork 3
        map own 300
        fill own own 2
        fill data[:100] own 3
        map same 200
        fill same list 4
    end
"""
HELD = """
    map huge 1024
    advise huge hugepage
    fill huge list 1
    fill huge[700:] zero
    map pinned 20
    fill pinned same 5
    pin pinned
"""
WORKLOAD = Workload("without-contents", (FORKED, HELD), series=SERIES)


@dataclass(frozen=True)
class Dumps:
    """One moment of a kernel: as it is in ``elf`` and ``kdump``, as a snapshot, and filtered."""

    series: str
    directory: Path
    full: Snapshot

    def snapshot(self, name: str, *, without_contents: bool) -> Snapshot:
        symbols = [lab_kernel(self.series).vmlinux]
        core = self.directory / name
        return collect_core(core, symbols, without_contents=without_contents, seed=0)


@pytest.fixture(scope="module", params=[SERIES[0], again(SERIES[1])])
def dumped(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dumps]:
    directory = tmp_path_factory.mktemp("without-contents")
    kernel = lab_kernel(request.param)
    run_workload(WORKLOAD, kernel, directory / "elf")
    full = collect_core(directory / "elf", [kernel.vmlinux], seed=0)
    shutil.copyfile(directory / "elf", directory / "for-makedumpfile")
    headers_where_makedumpfile_looks(directory / "for-makedumpfile")
    makedumpfile("-c -d 1", directory / "for-makedumpfile", directory / "kdump")
    users = full.frames["pfn"].to_numpy()
    leave_out_of_kdump(directory / "kdump", directory / "kdump-31", users, 31)
    leave_out_of_kdump(directory / "kdump", directory / "kdump-0", users, 0)
    leave_out_of_kdump(directory / "kdump", directory / "kdump-whole", users[:0], 31)
    leave_out_of_elf(directory / "elf", directory / "elf-31", users)
    if request.param == FILTERED_BY_ITS_LIKE:
        for name, options in (("real-31", "-c -d 31"), ("real-elf-31", "-E -d 31")):
            makedumpfile(options, directory / "for-makedumpfile", directory / name)
        makedumpfile("-F -c -d 31", directory / "for-makedumpfile", directory / "real-flat-31")
    yield Dumps(request.param, directory, full)
    shutil.rmtree(directory)


def filtered(dumped: Dumps) -> list[str]:
    """Dumps without user pages, whatever their headers say."""
    real = ["real-31", "real-elf-31", "real-flat-31"]
    return ["kdump-31", "kdump-0", "elf-31", *(n for n in real if (dumped.directory / n).exists())]


def test_refused_by_what_is_missing_not_by_the_header(dumped: Dumps) -> None:
    for name in filtered(dumped):
        with pytest.raises(CannotAnswerError, match="no user pages") as caught:
            dumped.snapshot(name, without_contents=False)
        for way in ("makedumpfile -l -d 23", "/etc/default/kdump-tools", "--without-contents"):
            assert way in str(caught.value.hint)
    whole = dumped.snapshot("kdump-whole", without_contents=False)
    pd.testing.assert_frame_equal(whole.frames, dumped.full.frames)


def test_without_contents_all_else_is_as_in_the_full_dump(dumped: Dumps) -> None:
    full = dumped.full
    for name in [*filtered(dumped), "elf", "kdump"]:
        found = dumped.snapshot(name, without_contents=True)
        assert found.info["without_contents"] is True
        for table in ("vmas", "mappings", "stable_nodes"):
            pd.testing.assert_frame_equal(getattr(found, table), getattr(full, table), obj=table)
        processes, expected = (s.processes.drop(columns="cmdline") for s in (found, full))
        pd.testing.assert_frame_equal(processes, expected)  # cmdlines are in user pages
        assert found.frames["hash"].isna().all()
        facts = found.frames.drop(columns=["hash", "unknown"])
        zero = full.frames["flags"].to_numpy() & ~np.uint32(FrameFlag.ZERO)
        expected = full.frames.drop(columns=["hash", "unknown"]).assign(flags=zero)
        pd.testing.assert_frame_equal(facts, expected)
        left_out = (found.frames["unknown"] == Unknown.EXCLUDED).mean()
        assert left_out == {"elf": 0, "kdump": 0, "real-flat-31": 0}.get(name, left_out)
        assert left_out == {"kdump-31": 1, "kdump-0": 1, "elf-31": 1}.get(name, left_out)
        assert set(found.frames["unknown"]) <= {Unknown.EXCLUDED, Unknown.NOT_READ}


@pytest.mark.parametrize(
    "policy",
    [
        Policy(),
        Policy(scope="enabled"),
        Policy(max_page_sharing=2),
        Policy(use_zero_pages=True),
    ],
)
def test_the_bound_is_not_below_the_prediction(dumped: Dumps, policy: Policy) -> None:
    prediction = predict(dumped.full, policy)
    bound = upper_bound(dumped.snapshot("kdump-31", without_contents=True), policy)
    assert prediction.physical["frames_freed"] <= bound.ledger.frames_freed
    assert bound.ledger.frames_freed < bound.frames_before
    assert bound.coverage.candidate_pages == prediction.coverage.candidate_pages
    if policy.scope == "all":
        assert prediction.physical["frames_freed"] > 0
        assert bound.ledger.pinned_frames == 20


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "estimator", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_from_the_command_line(dumped: Dumps, tmp_path: Path) -> None:
    core = ("--core", dumped.directory / "kdump-31")
    for command in ("run", "collect", "check"):
        output = ("-o", tmp_path / "x.ksm") if command == "collect" else ()
        done = run(command, *core, *output)
        assert done.returncode == 5
        assert "--without-contents" in done.stdout + done.stderr
        assert command == "check" or done.stderr.count("\n") == 1
    assert run("check", *core, "--without-contents").returncode == 0
    collected = run("collect", *core, "--without-contents", "-o", tmp_path / "x.ksm")
    assert collected.returncode == 0, collected.stderr
    done = run("run", *core, "--without-contents", "--json")
    assert done.returncode == 6
    answer = json.loads(done.stdout)
    assert set(answer["counters"].values()) == {None}
    assert answer["upper_bound"]["frames_freed"] > 0
    assert (
        json.loads(run("predict", tmp_path / "x.ksm", "--json").stdout)["upper_bound"]
        == (answer["upper_bound"])
    )
