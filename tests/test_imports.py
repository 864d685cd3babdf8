"""What a command imports: no more than it needs, since that is most of a short run."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from estimator.snapshot.store import write_snapshot
from tests.systems import fork_server

TABLES = {"numpy", "pandas", "pyarrow"}
PICTURES = {"jinja2", "matplotlib"}
READERS = {"drgn", "_drgn", "estimator.kernel.core", "estimator.procfs.collect"}
needs_procfs = pytest.mark.skipif(
    platform.system() != "Linux" or os.geteuid() != 0, reason="--procfs is for root on Linux"
)


def imported(*arguments: str) -> tuple[set[str], int]:
    """The modules that the command imports, by what Python itself says; and its exit code."""
    command = [sys.executable, "-X", "importtime", "-m", "estimator", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    modules = {line.rpartition("|")[2].strip() for line in lines}
    assert "estimator.cli" in modules, done.stderr
    return modules, done.returncode


@pytest.mark.parametrize("module", ["estimator", "estimator.cli"])
def test_the_package_imports_no_tables(module: str) -> None:
    code = f"import {module}, sys; assert not {TABLES} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["help"],
        ["check", "-h"],
        ["run", "-h"],
        ["predict", "-h"],
        ["fleet", "report", "-h"],
        ["metrics", "-h"],
    ],
    ids=" ".join,
)
def test_help_imports_no_tables(arguments: list[str]) -> None:
    modules, code = imported(*arguments)
    assert code == 0
    assert not modules & (TABLES | PICTURES | READERS)


@pytest.mark.parametrize("command", ["check", "collect", "run"])
def test_wrong_options_import_no_tables(command: str) -> None:
    more = ["-o", "a.ksm"] if command == "collect" else []
    modules, code = imported(command, "--live", "--procfs", *more)
    assert code == 2
    assert not modules & (TABLES | PICTURES | READERS)


@needs_procfs
def test_check_of_proc_imports_no_tables_but_numpy() -> None:
    modules, code = imported("check", "--procfs")
    assert code in (0, 3)  # 3: a container that shows no PFNs
    assert "estimator.procfs.check" in modules
    assert not modules & {"pandas", "pyarrow", "drgn", "_drgn", "rich.progress", *PICTURES}


@needs_procfs
def test_collect_from_proc_imports_neither_pandas_nor_drgn(tmp_path: Path) -> None:
    modules, code = imported("collect", "--procfs", "-o", str(tmp_path / "a.ksm"))
    assert code in (0, 3)
    assert "estimator.procfs.collect" in modules
    assert not modules & {"pandas", "drgn", "_drgn", "estimator.ksm.predict", *PICTURES}


@pytest.mark.parametrize("command", ["check", "collect"])  # run imports it meanwhile
def test_a_dump_that_is_none_is_refused_before_pandas(command: str, tmp_path: Path) -> None:
    (tmp_path / "vmcore").write_bytes(bytes(8192))
    more = [] if command == "check" else ["-o", str(tmp_path / "a.ksm")]
    modules, code = imported(command, "--core", str(tmp_path / "vmcore"), *more)
    assert code == 3
    assert not modules & {"pandas", "estimator.procfs.collect", *PICTURES}


@pytest.mark.parametrize("command", ["predict", "report", "advise", "forecast", "whatif"])
def test_answers_import_no_reader_and_no_pictures(command: str, tmp_path: Path) -> None:
    write_snapshot(fork_server(), tmp_path / "a.ksm")
    modules, code = imported(command, str(tmp_path / "a.ksm"))
    assert code == 0
    assert not modules & (READERS | PICTURES)
