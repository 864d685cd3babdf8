"""report, advise, compare and verify from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from estimator.snapshot.store import write_snapshot
from tests.commands import estimator, with_files_of_at_most
from tests.systems import Area, Process, fork_server, system


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("snapshots") / "fork.ksm"
    write_snapshot(fork_server(), path)
    return path


def test_report_in_80_columns(snapshot: Path) -> None:
    done = estimator("report", snapshot, COLUMNS="80", NO_COLOR="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("With every process opted in, KSM would free ")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout


def test_report_as_html_is_private_and_never_overwrites(snapshot: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = estimator("report", snapshot, "--html", page)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"wrote {page}\n")
    assert page.stat().st_mode & 0o777 == 0o600
    assert page.read_text().startswith("<!DOCTYPE html>")
    again = estimator("report", snapshot, "--html", page)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    nowhere = estimator("report", snapshot, "--html", tmp_path / "no" / "report.html")
    assert nowhere.returncode == 3
    assert "can't be written" in nowhere.stderr


def test_advise_as_text_and_json(snapshot: Path) -> None:
    done = estimator("advise", snapshot, "--page-cost", "2", "--share", "100")
    assert (done.returncode, done.stderr) == (0, "")
    assert "printf '[Service]\\nMemoryKSM=yes\\n'" in done.stdout
    assert "2 µs of CPU (given)" in done.stdout
    assert done.stdout.count("Before you trust these numbers") == 1

    answer = json.loads(estimator("advise", snapshot, "--json", "--within", "uid").stdout)
    assert answer["within"] == "uid"
    assert answer["lines"][0]["commands"].startswith("mkdir -p /etc/systemd/system/")
    assert answer["schedule"]["cost"]["most"]["seconds"] == 10.2e-6  # as published
    assert answer["frontier"][-1]["scanned_pages"] >= answer["frontier"][0]["scanned_pages"]
    assert answer["counters"]["pages_sharing"] <= answer["everything"]["counters"]["pages_sharing"]


def test_compare_a_snapshot_with_a_saved_prediction(snapshot: Path, tmp_path: Path) -> None:
    saved = tmp_path / "before.json"
    saved.write_text(estimator("predict", snapshot, "--json", "--comm", "batch").stdout)
    done = estimator("compare", saved, snapshot)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("B would free ")
    assert "worker" in done.stdout
    changes = json.loads(estimator("compare", snapshot, snapshot, "--json").stdout)
    assert {row["change"] for row in changes["numbers"]} == {0}
    by_options = estimator("compare", saved, saved, "--comm", "batch", "--scope", "all")
    assert by_options.returncode == 2
    assert "--scope, --comm can't change" in by_options.stderr
    assert estimator("compare", saved, saved).returncode == 0
    assert estimator("compare", saved, snapshot, "--comm", "batch").stdout.startswith(
        "B would free as"
    )
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert estimator("compare", broken, snapshot).returncode == 3


def test_verify(snapshot: Path, tmp_path: Path) -> None:
    missing = estimator("verify", snapshot, "--root", tmp_path)
    assert missing.returncode == 5
    assert "no KSM" in missing.stderr
    files = tmp_path / "sys/kernel/mm/ksm"
    files.mkdir(parents=True)
    (files / "run").write_text("1\n")
    (files / "pages_shared").write_text("17\n")
    (tmp_path / "proc").mkdir()
    answer = json.loads(estimator("verify", snapshot, "--root", tmp_path, "--json").stdout)
    shared = next(row for row in answer["counters"] if row["counter"] == "pages_shared")
    assert shared["real"] == 17
    assert shared["difference"] == 17 - shared["predicted"]
    asked = [
        estimator("predict", snapshot, "--scope", s, "--json").stdout for s in ("enabled", "all")
    ]
    enabled, everything = (json.loads(text)["counters"]["pages_shared"] for text in asked)
    assert shared["predicted"] == enabled < everything
    kernel = tmp_path / "proc/sys/kernel"
    kernel.mkdir(parents=True)
    (kernel / "hostname").write_text("elsewhere\n")
    other = estimator("verify", snapshot, "--root", tmp_path)
    assert other.returncode == 2
    assert "another machine" in other.stderr
    (kernel / "hostname").unlink()
    assert "full scans" in estimator("verify", snapshot, "--root", tmp_path).stdout


def test_a_closed_pipe_is_no_failure(snapshot: Path) -> None:
    run = f"{sys.executable} -m estimator report {snapshot}"
    command = run + " | head -1; echo ${PIPESTATUS[0]}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["predict --json", "predict", "advise", "advise --json"])
@pytest.mark.parametrize(
    ("stdout", "why"), [(">/dev/full", "No space left"), (">&-", "Bad file descriptor")]
)
def test_stdout_that_takes_nothing(command: str, stdout: str, why: str, snapshot: Path) -> None:
    run = f"{sys.executable} -m estimator {command} {snapshot} {stdout}"
    done = subprocess.run(["bash", "-c", run], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith(f"ksm-estimator: the answer can't be written to stdout: {why}")
    assert done.stderr.count("\n") == 1


def test_stdout_is_told_of_before_low_coverage(tmp_path: Path) -> None:
    path = tmp_path / "unread.ksm"
    write_snapshot(system([Process("db", [Area([1, 1, None, None])])]), path)
    run = f"{sys.executable} -m estimator predict {path}"
    for stdout, code in (("", 6), (">/dev/full", 3)):
        done = subprocess.run(["bash", "-c", run + stdout], capture_output=True, check=False)
        assert done.returncode == code


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str, snapshot: Path, tmp_path: Path) -> None:
    run = f"{sys.executable} -m estimator report {snapshot} --html {tmp_path}/a.html {closed}"
    subprocess.run(["bash", "-c", run], check=True)
    assert (tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>")


def test_a_snapshot_on_a_closed_stdin(snapshot: Path) -> None:
    run = f"{sys.executable} -m estimator predict - <&-"
    done = subprocess.run(["bash", "-c", run], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("ksm-estimator: stdin is no snapshot:")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_stdout_has_no_letters_for(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "names.ksm"
    write_snapshot(system([Process("b\u00e4ckerei\u65e5", [Area([1, 1])])]), path)
    for command in (["report"], ["report", "--json"]):
        run = [sys.executable, "-m", "estimator", *command, str(path)]
        done = subprocess.run(
            run, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
        text = done.stdout.decode(encoding)
        if command[-1] == "--json":
            assert json.loads(text)["processes"][0]["comm"] == "b\u00e4ckerei\u65e5"
        else:
            wide = "\u65e5" if encoding == "utf-8" else "\\u65e5"
            narrow = "b\\xe4ckerei" if encoding == "ascii" else "b\u00e4ckerei"
            assert narrow + wide in text


def test_a_page_that_does_not_fit_leaves_nothing(snapshot: Path, tmp_path: Path) -> None:
    done = with_files_of_at_most(16, "report", snapshot, "--html", f"{tmp_path}/a.html")
    assert done.returncode == 3
    assert done.stderr == f"ksm-estimator: {tmp_path}/a.html can't be written: File too large\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options", ["--share 90", "--within uid", "--scan-time 150", "--page-cost 1"]
)
def test_options_of_the_advice_want_a_page(options: str, snapshot: Path, tmp_path: Path) -> None:
    refused = estimator("report", snapshot, *options.split())
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert f"{options.split()[0]} is for the advice in a page; add --html" in refused.stderr


def test_nothing_to_propose_is_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "unique.ksm"
    write_snapshot(system([Process("db", [Area(list(range(1, 500)))])]), path)
    done = estimator("advise", path)
    assert done.returncode == 0
    assert "There is nothing to propose." in done.stdout
    assert "MemoryKSM" not in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "x.ksm", "--min-coverage", "nan"),
        ("advise", "x.ksm", "--scan-time", "inf"),
        ("fleet", "report", "x.ksm", "--overcommit", "nan"),
        ("collect", "--procfs", "-o", "y.ksm", "--rate", "nan"),
        ("verify", "x.ksm", "--tolerance", "nan"),
    ],
)
def test_nan_and_inf_are_no_bounds(arguments: tuple[str, ...]) -> None:
    done = estimator(*arguments)
    assert done.returncode == 2
    assert "is no finite number" in done.stderr
