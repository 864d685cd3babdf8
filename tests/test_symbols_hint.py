"""The commands that get a kernel's symbols, by distribution."""

from __future__ import annotations

from pathlib import Path

import pytest

from estimator.kernel import check_running
from estimator.kernel.check_running import symbols_hint


@pytest.mark.parametrize(
    ("os_release", "expected"),
    [
        ("ID=debian\n", ["apt-get install linux-image-6.9.1-dbg", "debuginfod.debian.net"]),
        ("ID=ubuntu\nID_LIKE=debian\n", ["linux-image-6.9.1-dbgsym", "debuginfod.ubuntu.com"]),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', ["debuginfo-install kernel-core-6.9.1"]),
        ("ID=arch\n", ["debuginfod.archlinux.org"]),
        ("ID=mine\n", ["debuginfod.elfutils.org"]),
    ],
)
def test_each_distribution_has_its_own_way(
    os_release: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "os-release").write_text(os_release)
    monkeypatch.setattr(check_running, "_OS_RELEASE", tmp_path / "os-release")
    hint = symbols_hint("6.9.1")
    for part in (*expected, "--symbols VMLINUX", "--procfs"):
        assert part in hint
