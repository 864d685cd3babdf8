"""How the command behaves: what it accepts, what it says of it, and how it ends."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.systems import Area, Process, fork_server, system


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("snapshots") / "fork.ksm"
    write_snapshot(fork_server(), path)
    return path


def test_users_go_by_name(snapshot: Path) -> None:
    user = pwd.getpwuid(33).pw_name
    by_name, by_number = (
        estimator("predict", snapshot, "--json", "--uid", uid).stdout for uid in (user, "33")
    )
    assert by_name == by_number
    assert json.loads(by_name)["policy"]["uids"] == [33]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict"], "missing argument 'SNAPSHOT'; see: ksm-estimator predict --help"),
        (["predict", "x", "--foo"], "no such option '--foo'; see: ksm-estimator predict --help"),
        (["frobnicate"], "no such command 'frobnicate'; see: ksm-estimator --help"),
        (["predict", "x", "--uid", "nobody at all"], "is no user of this machine"),
        (["collect", "--procfs"], "name the snapshot to make with -o NAME.ksm"),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], said: str) -> None:
    done = estimator(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("ksm-estimator: ")
    assert said in done.stderr
    assert done.stderr.count(os.linesep) == 1


def test_no_command_at_all_shows_the_help() -> None:
    done = estimator()
    assert done.returncode == 2
    assert "Commands:" in done.stderr


@pytest.mark.parametrize("command", ["predict", "report", "advise"])
def test_what_is_asked_stands_in_the_first_lines(command: str, snapshot: Path) -> None:
    options = ("--scope", "enabled", "--uid", "1001", "--max-page-sharing", "512")
    head = estimator(command, snapshot, *options, "--no-use-zero-pages").stdout.splitlines()[:9]
    said = " ".join(head)
    assert "Of example, Linux 6.12 (x86_64): the dump vmcore, read 2026-01-01 00:00 UTC" in said
    assert "Asked: --scope enabled --uid 1001; max_page_sharing 512 (there 256)," in said
    assert "use_zero_pages 0, merge_across_nodes 1." in said


def test_predict_is_the_counters_and_report_the_story(snapshot: Path) -> None:
    counters, story = (estimator(name, snapshot).stdout for name in ("predict", "report"))
    for text in (counters, story):
        assert text.startswith("With every process opted in, KSM would free ")
    assert "general_profit" in counters
    assert "Who contributes" not in counters
    assert "general_profit" not in story
    for heading in ("services", "programs", "processes", "VMAs by name"):
        assert f"Who contributes: {heading}" in story


def rows(text: str, heading: str) -> list[str]:
    """The lines below ``heading``, without the two of the head of the table and the total."""
    lines = text.split(heading)[1].split("\n\n")[0].splitlines()[3:]
    return [line for line in lines if line.strip(" ─") and line.split()[0] != "all"]


def test_more_rows_and_another_order(snapshot: Path) -> None:
    usual = rows(estimator("report", snapshot).stdout, "Who contributes: processes")
    assert len(usual) == 16
    assert usual[-1] == "  and 1 more, counted in the last line: --top 0 shows all"
    everything = estimator("report", snapshot, "--top", "0", "--sort", "pid").stdout
    pids = [int(row.split()[0]) for row in rows(everything, "Who contributes: processes")]
    assert pids == sorted(range(1000, 1016), reverse=True)
    comms = [row.split()[0] for row in rows(everything, "Who contributes: programs")]
    assert sorted(comms) == ["batch", "controller", "loner", "worker"]
    two = estimator("report", snapshot, "--top", "2", "--sort", "net").stdout
    assert "  and 14 more, counted in the last line: --top 0 shows all" in two
    wrong = estimator("report", snapshot, "--sort", "beauty")
    assert wrong.returncode == 2
    assert "no table has a column 'beauty'; they have unit, " in wrong.stderr


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("command", ["predict", "report", "advise", "compare"])
def test_every_width_is_kept(command: str, columns: int, snapshot: Path) -> None:
    sides = [snapshot] * (2 if command == "compare" else 1)
    text = estimator(command, *sides, COLUMNS=str(columns)).stdout
    # what is to be typed is never broken
    lines = [line for line in text.splitlines() if not line.startswith("    ")]
    assert max(map(len, lines)) <= columns
    assert text == "\n".join(line.rstrip() for line in text.split("\n"))


def test_names_are_never_squeezed(snapshot: Path) -> None:
    text = estimator("advise", snapshot, COLUMNS="60").stdout
    assert "  1 app.service (systemd)\n" in text
    text = estimator("report", snapshot, COLUMNS="60").stdout
    assert "\n  [anon:cache]\n    comm worker, processes 12, " in text
    assert "\n  controller\n" in text
    assert "  app.service\n    processes 13, scanned 71.0 MiB, merged 42.7 MiB,\n" in text


def test_quiet(tmp_path: Path, snapshot: Path) -> None:
    page = tmp_path / "a.html"
    assert estimator("report", "-q", snapshot, "--html", page).stderr == ""
    again = estimator("report", "-q", snapshot, "--html", page)
    assert again.stderr == f"ksm-estimator: {page} exists already; replace it with --force\n"
    before = page.stat().st_ino
    done = estimator("report", snapshot, "--html", page, "--force", "--comm", "loner")
    assert (done.returncode, done.stderr) == (0, f"wrote {page}\n")
    assert page.stat().st_ino != before
    assert page.stat().st_mode & 0o777 == 0o600
    assert "--comm loner" in page.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_low_coverage_of_a_comparison(tmp_path: Path, snapshot: Path) -> None:
    path = tmp_path / "half.ksm"
    write_snapshot(system([Process("db", [Area([1, 1, None, None])])]), path)
    done = estimator("compare", snapshot, path)
    assert done.returncode == 6
    assert "only 50% of the candidate pages of B could be read" in done.stderr
    assert done.stdout.startswith("B would free ")
    assert estimator("compare", snapshot, path, "--min-coverage", "50").returncode == 0


def running(root: Path, snapshot: Path, **other: int) -> None:
    """A /sys below ``root`` where ksmd has come to rest as ``predict`` says."""
    answer = json.loads(estimator("predict", snapshot, "--json").stdout)
    names = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile")
    counters = {name: answer["counters"][name] for name in names}
    ksm = root / "sys/kernel/mm/ksm"
    ksm.mkdir(parents=True, exist_ok=True)
    (root / "proc").mkdir(exist_ok=True)
    for name, value in ({"run": 1, "full_scans": 9, "smart_scan": 1} | counters | other).items():
        (ksm / name).write_text(f"{value}\n")


def test_verify_ends_with_what_it_found(tmp_path: Path, snapshot: Path) -> None:
    running(tmp_path, snapshot)
    assert estimator("verify", snapshot, "--scope", "all", "--root", tmp_path).returncode == 0
    sharing, unshared, volatile = (
        int((tmp_path / f"sys/kernel/mm/ksm/pages_{name}").read_text())
        for name in ("sharing", "unshared", "volatile")
    )
    assert unshared > 0
    moved = {"pages_unshared": 0, "pages_volatile": unshared + volatile}
    running(tmp_path, snapshot, **moved)
    assert estimator("verify", snapshot, "--scope", "all", "--root", tmp_path).returncode == 0
    running(tmp_path, snapshot, **moved, smart_scan=0)
    assert estimator("verify", snapshot, "--scope", "all", "--root", tmp_path).returncode == 7
    running(tmp_path, snapshot, pages_sharing=sharing + 1)
    done = estimator("verify", snapshot, "--scope", "all", "--root", tmp_path)
    assert done.returncode == 7
    assert "the kernel differs in pages_sharing" in done.stderr
    near = estimator("verify", snapshot, "--scope", "all", "--root", tmp_path, "--tolerance", "1")
    assert near.returncode == 0
    running(tmp_path, snapshot, full_scans=3)
    early = estimator("verify", snapshot, "--scope", "all", "--root", tmp_path)
    assert early.returncode == 5
    assert "nothing to compare with yet" in early.stderr
    assert early.stdout.startswith("There is nothing to compare with yet.")


def test_findings_break_between_words() -> None:
    options = ("check", "--core", "/nowhere/" + "a-b " * 30)
    (line,) = estimator(*options).stdout.splitlines()
    lines = estimator(*options, COLUMNS="60").stdout.splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= 60
    assert " ".join(part.strip() for part in lines) == " ".join(line.split(" ")).strip()
    assert {part[:18].strip() for part in lines[1:]} == {""}


def test_check_takes_no_options_of_reading() -> None:
    assert estimator("check", "--procfs", "--rate", "5").returncode == 2
    assert "--rate" in estimator("collect", "--help").stdout


def test_a_dump_in_the_place_of_a_snapshot_is_seen(tmp_path: Path) -> None:
    (tmp_path / "vmcore").write_bytes(b"KDUMP   " + bytes(2000))
    done = estimator("predict", tmp_path / "vmcore")
    assert done.returncode == 3
    assert f"it looks like a dump: ksm-estimator run --core {tmp_path}/vmcore" in done.stderr


def test_help_without_a_topic_lists_them() -> None:
    done = estimator("help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "help columns: every line and column" in done.stdout


def test_who_interrupts_the_start_gets_no_traceback(tmp_path: Path) -> None:
    """While the first of our libraries is imported."""
    (tmp_path / "click.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    code = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "runpy.run_module('estimator', run_name='__main__')"  # CI may have us ignore it
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", "x.ksm"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGINT
    assert done.stderr == b""
