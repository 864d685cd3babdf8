"""A machine whose KSM is borrowed for a proof is as it was before, whatever happens."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.lab.here import machine

FILES = {
    "run": "0",
    "pages_shared": "0",
    "advisor_mode": "none [scan-time]",
    "pages_to_scan": "100",
    "sleep_millisecs": "20",
    "use_zero_pages": "0",
}


@pytest.fixture
def ksm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/sys/kernel/mm/ksm of a kernel without smart_scan, where what is written is read."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(machine, "KSM", tmp_path)
    monkeypatch.setattr(machine, "KHUGEPAGED", tmp_path / "scan_sleep_millisecs")
    (tmp_path / "scan_sleep_millisecs").write_text("10000\n")
    return tmp_path


def read(ksm: Path) -> dict[str, str]:
    return {path.name: path.read_text().strip() for path in sorted(ksm.iterdir())}


def as_before() -> dict[str, str]:
    return dict(
        sorted({**FILES, "advisor_mode": "scan-time", "scan_sleep_millisecs": "10000"}.items())
    )


@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_every_setting_is_put_back(ksm: Path, number: signal.Signals | None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in background
    expected = pytest.raises(KeyboardInterrupt if number else ZeroDivisionError)
    with expected, machine.borrowed(use_zero_pages="1"):
        assert read(ksm)["advisor_mode"] == "none"
        assert read(ksm)["use_zero_pages"] == "1"
        assert read(ksm)["scan_sleep_millisecs"] == machine.AN_HOUR
        assert "smart_scan" not in read(ksm)
        if number is None:
            raise ZeroDivisionError
        os.kill(os.getpid(), number)
    assert read(ksm) == as_before()


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("run", "1", "KSM is in use here"),
        ("run", "2", "KSM is in use here"),
        ("pages_shared", "7", "KSM has been used here: pages_shared is 7"),
    ],
)
def test_where_somebody_uses_ksm_it_is_refused(
    ksm: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, reason: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (ksm / name).write_text(text)
    assert reason in str(machine.refusal())


def test_only_root_can(ksm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert machine.refusal() == "only root can turn ksmd on"


def test_a_kernel_without_ksm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine, "KSM", tmp_path / "ksm")
    assert machine.refusal() == "this kernel has no KSM"
