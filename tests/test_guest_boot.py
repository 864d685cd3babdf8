"""A guest that emulation lets panic at boot is booted again; any other failure is one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.lab.apt import LabError
from tests.lab.guest import BOOTS, Guest


def guest(monkeypatch: pytest.MonkeyPatch, failures: list[str]) -> tuple[Guest, list[str]]:
    """A guest whose first boots fail with these messages; and what was done with it."""
    done: list[str] = []
    made = Guest.__new__(Guest)
    made._states = None
    made._boot_seconds = 1.0
    made.kernel = SimpleNamespace(release="6.12")  # type: ignore[assignment]

    def boot(_: Guest, seconds: float) -> None:
        done.append("boot")
        if failures:
            raise LabError(failures.pop(0))

    monkeypatch.setattr(Guest, "_boot", boot)
    monkeypatch.setattr(Guest, "_stop", lambda _: done.append("stop"))
    monkeypatch.setattr(Guest, "close", lambda _: done.append("close"))
    return made, done


@pytest.mark.parametrize(
    "lost",
    [
        "QEMU ended\nOops: int3: 0000 [#1]",
        "timeout during 'boot'",
        "Kernel panic - not syncing: IO-APIC + timer doesn't work!  Boot with apic=debug",
    ],
)
def test_what_emulation_loses_is_booted_again(monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    made, done = guest(monkeypatch, [lost])
    with made:
        assert done == ["boot", "stop", "boot"]
    assert done[-1] == "close"


def test_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    made, done = guest(monkeypatch, ["Oops: int3"] * BOOTS)
    with pytest.raises(LabError, match="int3"):
        made.__enter__()
    assert done.count("boot") == BOOTS
    assert done[-1] == "close"


def test_other_failures_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    made, done = guest(monkeypatch, ["Kernel panic - not syncing: VFS"])
    with pytest.raises(LabError, match="VFS"):
        made.__enter__()
    assert done == ["boot", "close"]
