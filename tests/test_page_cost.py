"""check --page-cost: what user space takes for a page, and what ksmd has taken."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
import pytest

from estimator.cli import page_cost as command
from estimator.cli.quantities import Cost
from estimator.collect import memory_room, page_cost
from estimator.collect.findings import Findings
from estimator.collect.page_cost import Measured, measure
from estimator.errors import CannotAnswerError
from tests.commands import estimator
from tests.test_verify import running

MEASURED = Measured(1 << 16, 0.1e-6, 1e-6, 0.25e-6, 0.3e-6, 0.5e-6, 3e-6, 130e-6, 1e-3, 0.004)
TERMS = "visit=0.35,checksum=1,compare=0.25,lookup=0.3,merge=3.5,split=130,wake=1000,tick=4000"


def available(monkeypatch: pytest.MonkeyPatch, path: Path, mib: int) -> None:
    path.write_text(f"MemFree: 1 kB\nMemAvailable: {mib << 10} kB\n")
    monkeypatch.setattr(memory_room, "_PROC", path.parent)
    monkeypatch.setattr(page_cost, "_FEWEST_BYTES", 16 << 20)
    monkeypatch.setattr(page_cost, "_TURNS", 16)


def test_each_step_takes_its_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """4,096 bytes are not hashed in less than 40 ns; no step takes no time."""
    available(monkeypatch, tmp_path / "meminfo", 128)
    found = measure()
    assert found.pages == (16 << 20) // 4096
    assert 1e-4 <= found.tick_seconds <= 1e-2
    assert min(found.hash_seconds, found.equal_seconds, found.change_seconds) > 40e-9
    assert min(found.compare_seconds, found.walk_seconds, found.lookup_seconds) > 0
    assert found.split_seconds is None or found.split_seconds > 0


def test_a_call_that_was_disturbed_takes_nothing_from_the_step() -> None:
    """Of 128 turns one in which a call that does nothing was held up for 20 ms."""
    spent, on_nothing = np.full(128, 64e-6), np.full(128, 16e-6)
    on_nothing[5] = 20e-3
    assert page_cost._beyond(spent, on_nothing) == pytest.approx(0.75e-6)


def test_no_step_takes_no_time() -> None:
    with pytest.raises(CannotAnswerError, match="no longer than a call that does nothing"):
        page_cost._beyond(np.full(128, 15e-6), np.full(128, 16e-6))


def test_too_little_memory_to_be_cold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    available(monkeypatch, tmp_path / "meminfo", 127)
    with pytest.raises(CannotAnswerError, match="only 28 MiB can be spared"):
        measure()
    findings = Findings()
    command.add_page_cost(findings, tmp_path)
    assert [finding.status for finding in findings.found] == ["ok", "warn"]
    assert findings.exit_code == 0


@pytest.mark.parametrize(
    ("ksm", "said"),
    [
        ({"pages_scanned": 1_000_000}, "4 µs of ksmd itself, measured: 4.0 s of ksmd"),
        ({"pages_scanned": 10}, "scanned too little"),
        ({"run": 1}, "scanned too little"),  # before 6.6 nobody counts
    ],
)
def test_both_figures_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ksm: dict[str, object], said: str
) -> None:
    monkeypatch.setattr(command, "measure", lambda: MEASURED)
    findings = Findings()
    command.add_page_cost(findings, running(tmp_path, ksm, {40: ("ksmd", {})}))
    ksmd, *terms, all_of_them = findings.found
    assert [line.text.split(":")[0] for line in terms][:2] == ["visit 0.35 µs", "checksum 1 µs"]
    assert all_of_them.hint == f"forecast --page-cost {TERMS}"
    assert said in ksmd.text


def test_what_is_printed_can_be_typed() -> None:
    """The same terms, but for the digits that are not shown."""
    found = Cost().convert(TERMS, None, None)
    assert found.terms is not None
    assert asdict(found.terms) == pytest.approx(asdict(command.terms_of(MEASURED)))
    assert found.seconds == pytest.approx(1.35e-6 + 20 * (0.25e-6 + 0.3e-6))


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("x", "no number of microseconds"),
        ("0", "no number of microseconds"),
        ("visit=1", "the terms are visit, checksum, compare, lookup, merge, split, wake, tick"),
        (TERMS + ",seek=1", "the terms are"),
        (TERMS.replace("=1,", "=-1,"), "no number of microseconds"),
    ],
)
def test_what_is_no_cost(typed: str, words: str) -> None:
    with pytest.raises(click.BadParameter, match=words):
        Cost().convert(typed, None, None)


def test_a_dump_is_of_another_machine() -> None:
    done = estimator("check", "--core", "vmcore", "--page-cost")
    assert done.returncode == 2
    assert "--page-cost measures this machine" in done.stderr
