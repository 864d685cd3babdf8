"""Where the running kernel can't be read: why, found by looking, and no other target instead."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from estimator import cli
from estimator.collect.capabilities import SYS_RAWIO
from estimator.errors import TargetError
from estimator.kernel import check_running, running


@pytest.fixture
def kcore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(running, "KCORE", tmp_path / "kcore")
    monkeypatch.setattr(running, "LOCKDOWN", tmp_path / "lockdown")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(running, "Program", Refusing)
    return tmp_path / "kcore"


class Refusing:
    def set_kernel(self) -> NoReturn:
        raise OSError("no")


def locked_down(kcore: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.open

    def refuse(path: Path, *arguments: Any, **named: Any) -> Any:
        if path == kcore:
            raise PermissionError(1, "Operation not permitted")
        return original(path, *arguments, **named)

    kcore.touch()
    kcore.with_name("lockdown").write_text("none integrity [confidentiality]\n")
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(running, "capabilities", lambda: 1 << SYS_RAWIO)


def locked_down_without_securityfs(kcore: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked_down(kcore, monkeypatch)
    kcore.with_name("lockdown").unlink()


def without_rawio(kcore: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked_down(kcore, monkeypatch)
    monkeypatch.setattr(running, "capabilities", lambda: ~(1 << SYS_RAWIO))


def masked(kcore: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kcore.touch()


def missing(kcore: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pass


REFUSED = [
    (locked_down, "is forbidden: the kernel is locked down (confidentiality)"),
    (locked_down_without_securityfs, "is forbidden, as where the kernel is locked down"),
    (without_rawio, "is forbidden: we have no CAP_SYS_RAWIO, as in a container"),
    (masked, "is empty: a container masks it"),
    (missing, "this kernel has no "),
]


@pytest.mark.parametrize(("machine", "why"), REFUSED)
def test_it_is_said_why_and_what_else_there_is(
    machine: Any, why: str, kcore: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(kcore, monkeypatch)
    with pytest.raises(TargetError) as refused:
        running.open_live()
    assert why in str(refused.value)
    assert "collect --procfs" in str(refused.value)
    findings = check_running.check_live([])
    assert [finding.status for finding in findings.found] == ["ok", "fail"]
    assert why in findings.found[-1].text
    assert findings.exit_code == 3


def test_another_lockdown_does_not_forbid_it(kcore: Path) -> None:
    kcore.write_bytes(b"\x7fELF")
    kcore.with_name("lockdown").write_text("none [integrity] confidentiality\n")
    assert running.lockdown() == "integrity"
    assert running.kcore_refused() is None


@pytest.mark.skipif(platform.system() != "Linux", reason="there is no /proc")
def test_no_other_target_is_read_instead(
    kcore: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def read(**_: Any) -> NoReturn:
        raise AssertionError("nobody has asked for --procfs")

    monkeypatch.setattr("estimator.procfs.collect.gather_procfs", read)
    monkeypatch.setattr("estimator.cli.source.lower_priority", lambda: None)
    out = tmp_path / "out.ksm"
    monkeypatch.setattr(sys, "argv", ["ksm-estimator", "collect", "--live", "-o", str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 3
    assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()
