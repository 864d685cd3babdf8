"""What the command says and leaves behind when its input is not what it takes it for."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import lab_kernel
from tests.lab.kernels import SERIES
from tests.lab.spoiled import without_own_symbols
from tests.lab.workload import LabResult, Workload, run_workload

pytestmark = pytest.mark.lab

SMALL = Workload("small", ("map a 50\nfill a same 1\nadvise a mergeable",), memory_mib=128)


def dump_of(series: str, directory: Path) -> Iterator[LabResult]:
    yield run_workload(SMALL, lab_kernel(series), directory / "vmcore")
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabResult]:
    yield from dump_of("6.12", tmp_path_factory.mktemp("dump"))


@pytest.fixture(scope="module", params=SERIES)
def of_each(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabResult]:
    """A small dump of every kernel."""
    yield from dump_of(request.param, tmp_path_factory.mktemp(request.param))


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "estimator", *map(str, arguments)]
    environment = os.environ | {"DEBUGINFOD_URLS": "", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def fails(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One line on stderr with ``words``, nothing on stdout."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


def elf(kind: int, notes: bytes = b"") -> bytes:
    """A 64-bit ELF file with one PT_NOTE, of the type ``kind`` (4: core, 2: executable)."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", kind, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    program = struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(notes), len(notes), 4)
    return ident + header + program + notes


def test_missing_file(tmp_path: Path) -> None:
    result = run("collect", "--core", "nowhere", "-o", "out.ksm", cwd=tmp_path)
    fails(result, 3, "nowhere", "does not exist")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("empty",)),
        (b"#!/bin/sh\necho hello\n" * 10, ("no crash dump",)),
        (elf(2), ("no core dump", "--symbols")),
        (elf(4), ("user process",)),
        (elf(4)[:40], ("cut off",)),
    ],
    ids=["empty", "text", "executable", "user-core", "stump"],
)
def test_no_kernel_dump(tmp_path: Path, content: bytes, words: tuple[str, ...]) -> None:
    (tmp_path / "core").write_bytes(content)
    fails(run("run", "--core", "core", cwd=tmp_path), 3, "core", *words)


def test_core_of_this_process(tmp_path: Path) -> None:
    """A real core dump of a user process, not only our idea of one."""
    crash = "import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (-1, -1)); os.abort()"
    subprocess.run([sys.executable, "-c", crash], cwd=tmp_path)
    cores = list(tmp_path.glob("*core*"))
    if not cores:
        pytest.skip("this machine writes no core files into the working directory")
    fails(run("run", "--core", cores[0], cwd=tmp_path), 3, "user process")


def test_no_symbols(tmp_path: Path, dumped: LabResult) -> None:
    core = without_own_symbols(dumped.vmcore, tmp_path / "core")
    result = run("collect", "--core", core, "-o", "out.ksm", cwd=tmp_path)
    fails(result, 4, dumped.kernel.release, "--symbols", f"{dumped.kernel.release}-dbg")
    assert list(tmp_path.iterdir()) == [core]


def test_symbols_of_another_build(tmp_path: Path, of_each: LabResult) -> None:
    other = lab_kernel(SERIES[SERIES.index(of_each.kernel.series) - 1]).vmlinux
    result = run(
        "collect", "--core", of_each.vmcore, "--symbols", other, "-o", "out.ksm", cwd=tmp_path
    )
    fails(result, 4, str(other), "not the vmlinux", of_each.kernel.release)
    assert list(tmp_path.iterdir()) == []


def test_symbols_that_do_not_exist(tmp_path: Path, dumped: LabResult) -> None:
    result = run("run", "--core", dumped.vmcore, "--symbols", "vmlinuz", cwd=tmp_path)
    fails(result, 4, "vmlinuz", "not exist")


def test_output_exists(tmp_path: Path, dumped: LabResult) -> None:
    (tmp_path / "out.ksm").mkdir()
    (tmp_path / "out.ksm" / "precious").touch()
    arguments = ("--core", dumped.vmcore, "--symbols", dumped.vmlinux, "-o", "out.ksm")
    fails(run("collect", *arguments, cwd=tmp_path), 3, "out.ksm", "exists")
    assert [path.name for path in tmp_path.rglob("*")] == ["out.ksm", "precious"]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated(tmp_path: Path, of_each: LabResult, share: float) -> None:
    """Cut short, a dump gives no answer, or one that says how much of it is missing."""
    cut = tmp_path / "vmcore"
    shutil.copyfile(of_each.vmcore, cut)
    os.truncate(cut, int(cut.stat().st_size * share))
    result = run(
        "run", "--core", "vmcore", "--symbols", of_each.vmlinux, "-o", "o.ksm", cwd=tmp_path
    )
    assert result.returncode in (3, 6), result.stderr
    if result.returncode == 3:
        fails(result, 3, "cut off")
        assert [path.name for path in tmp_path.iterdir()] == ["vmcore"]
    else:
        assert "candidate pages could be read" in result.stderr


def test_more_memory_than_allowed(tmp_path: Path, dumped: LabResult) -> None:
    core = ("--core", dumped.vmcore, "--symbols", dumped.vmlinux)
    refused = run("collect", *core, "--max-memory", "10M", "-o", "out.ksm", cwd=tmp_path)
    fails(refused, 2, "pages are mapped", "--max-memory 10M")
    assert list(tmp_path.iterdir()) == []
    enough = run("collect", *core, "--max-memory", "300M", "-o", "o.ksm", cwd=tmp_path)
    assert enough.returncode == 0


def test_no_target_is_ever_guessed(tmp_path: Path) -> None:
    result = run("run", cwd=tmp_path)
    assert result.returncode == 2
    assert "--core" in result.stderr
    assert result.stdout == ""
