"""The text report: verdict first, readable at any width, safe against names."""

from __future__ import annotations

import io
import re

import pandas as pd
import pytest
from rich.console import Console

from estimator.advice.verdict import savings
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.report.tables import Column, make_console, pages, table
from estimator.report.text import render
from estimator.report.words import why_they_differ
from estimator.snapshot.snapshot import Snapshot
from estimator.units import human_bytes
from tests.systems import Area, Process, fork_server, system


def text_report(snapshot: Snapshot, columns: int, policy: Policy | None = None) -> str:
    file = io.StringIO()
    console = Console(file=file, width=columns, highlight=False, emoji=False)
    render(snapshot, predict(snapshot, policy or Policy()), console)
    return file.getvalue()


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_fits_the_width_and_cuts_nothing(columns: int) -> None:
    long = "/kubepods.slice/burstable/pod-" + "0123456789abcdef" * 8
    snapshot = system([Process("averylongcomm15", [Area([1, 2], name=long)], cgroup=long)] * 2)
    text = text_report(snapshot, columns)
    assert max(len(line) for line in text.splitlines()) <= columns
    assert "…" not in text
    assert "averylongcomm15" in text
    if columns == 200:
        assert long.rpartition("/")[2] in text


def test_verdict_comes_first_and_counters_are_the_models() -> None:
    snapshot = fork_server()
    prediction = predict(snapshot, Policy())
    text = text_report(snapshot, 200)
    first = text.splitlines()[0]
    assert first.startswith("With every process opted in, KSM would free ")
    assert human_bytes(prediction.physical["net_bytes_saved"]) in first
    assert human_bytes(len(snapshot.frames) * 4096) in first
    for name, value in prediction.counters.items():
        assert re.search(rf"^\s+{name}\s+{value:,}\s", text, re.MULTILINE)


def test_zero_saving_and_nothing_selected() -> None:
    unique = system([Process("db", [Area(list(range(1, 100)))])])
    assert "would cost memory" in text_report(unique, 100)
    shared = system([Process("db", [Area([1, 2], excluded_by="shared")])])
    assert "nothing to scan" in text_report(shared, 100)


def test_enabled_scope_and_selection_are_said() -> None:
    snapshot = fork_server()
    policy = Policy(scope="enabled", comms=("batch",))
    text = " ".join(text_report(snapshot, 100, policy).split())
    assert text.startswith("With program batch as opted in now, KSM would free")


def test_names_can_not_drive_the_terminal() -> None:
    evil = "\x1b]0;x\x07[red]\u202e"
    snapshot = system([Process(evil, [Area([1, 2], name=evil)], cgroup=f"/{evil}")] * 2)
    text = text_report(snapshot, 200)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert r"\x1b]0;x\x07[red]\u202e" in text


def test_a_pipe_gets_no_colour_and_no_narrow_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    file = io.StringIO()
    render(fork_server(), predict(fork_server(), Policy()), make_console(file))
    assert "\x1b" not in file.getvalue()
    assert any(len(line) > 100 for line in file.getvalue().splitlines())


def test_why_the_two_savings_differ() -> None:
    pages = list(range(20))
    forks = [Process("fork", [Area(pages, frames=[f"f{i}" for i in pages])])] * 8
    forked = system([*forks, Process("copy", [Area(pages)])])
    assert "140 are to frames that fork shares already" in why_they_differ(
        savings(forked, predict(forked, Policy()))
    )
    plain = system([Process("web", [Area(pages)])] * 2)
    assert why_they_differ(savings(plain, predict(plain, Policy()))).startswith("They agree")


def test_smart_scan_is_explained_only_where_it_is_on() -> None:
    processes = [Process("db", [Area([1, 2, 3])])]
    assert "smart_scan is on" in text_report(system(processes), 100)
    assert "smart_scan is on" not in text_report(system(processes, smart_scan=0), 100)


def test_a_row_without_a_name_goes_by_its_first_number() -> None:
    rows = pd.DataFrame({"n": [1], "pages": [20_000], "between": ["0 to 16 KiB"]})
    columns = [Column("scan", "n", str, number=True), pages("scanned", "pages")]
    text = io.StringIO()
    table(make_console(text, width=20), rows, [*columns, Column("bounds", "between")])
    assert text.getvalue().split("\n")[:2] == ["  scan 1", "    scanned 20,000,"]
    assert "bounds 0 to" in text.getvalue()
