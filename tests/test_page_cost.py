"""check --page-cost: what user space takes for a page, and what ksmd has taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from estimator.cli import page_cost as command
from estimator.collect import memory_room, page_cost
from estimator.collect.findings import Findings
from estimator.collect.page_cost import Measured, measure
from estimator.errors import CannotAnswerError
from tests.commands import estimator
from tests.test_verify import running

MEASURED = Measured(1 << 16, 1.5e-6, 1e-6, 0.9e-6, 0.25e-6)


def available(monkeypatch: pytest.MonkeyPatch, path: Path, mib: int) -> None:
    path.write_text(f"MemFree: 1 kB\nMemAvailable: {mib << 10} kB\n")
    monkeypatch.setattr(memory_room, "_PROC", path.parent)
    monkeypatch.setattr(page_cost, "_FEWEST_BYTES", 16 << 20)
    monkeypatch.setattr(page_cost, "_PAGES", 500)


def test_a_whole_page_is_hashed_and_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """4,096 bytes are not hashed in less than 40 ns; the first of a page are found sooner."""
    available(monkeypatch, tmp_path / "meminfo", 64)
    found = measure()
    assert found.pages == (16 << 20) // 4096
    assert min(found.read_seconds, found.hash_seconds, found.equal_seconds) > 40e-9
    assert found.tree_depth == 12
    assert found.visit_seconds == found.hash_seconds + 12 * found.differ_seconds


def test_too_little_memory_to_be_cold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    available(monkeypatch, tmp_path / "meminfo", 63)
    with pytest.raises(CannotAnswerError, match="only 15 MiB can be spared"):
        measure()
    findings = Findings()
    command.add_page_cost(findings, tmp_path)
    assert [finding.status for finding in findings.found] == ["warn", "ok"]
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
    own, ksmd = findings.found
    assert own.text.startswith("about 5 µs: hashing 1 µs, and 16 comparisons")
    assert own.hint == (None if "4 µs" in said else "advise --page-cost 5")  # the better one alone
    assert said in ksmd.text


def test_a_dump_is_of_another_machine() -> None:
    done = estimator("check", "--core", "vmcore", "--page-cost")
    assert done.returncode == 2
    assert "--page-cost measures this machine" in done.stderr
