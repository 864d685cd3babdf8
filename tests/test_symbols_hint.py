"""How to get a kernel's symbols, and where they were looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from drgn import Program

from estimator.kernel import symbol_hints as symbols
from estimator.kernel.symbol_hints import looked_for
from estimator.releases import better_dump


@pytest.mark.parametrize(
    ("os_release", "expected"),
    [
        ("ID=debian\n", "debuginfod.debian.net"),
        ("ID=ubuntu\nID_LIKE=debian\n", "debuginfod.ubuntu.com"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "debuginfod.centos.org"),
        ("ID=arch\n", "debuginfod.archlinux.org"),
        ("ID=mine\n", "debuginfod.elfutils.org"),
    ],
)
def test_each_distribution_has_its_own_way(
    os_release: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "os-release").write_text(os_release)
    monkeypatch.setattr(symbols, "_OS_RELEASE", tmp_path / "os-release")
    hint = symbols.hint_here("6.12.43+deb13-amd64")
    package = "apt-get install linux-image-6.12.43+deb13-amd64-dbg"
    for part in (expected, package, "--symbols VMLINUX", "--procfs"):
        assert part in hint
    assert "install" not in symbols.hint_here("6.9.1")


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.12.43+deb13-amd64", "apt-get install linux-image-6.12.43+deb13-amd64-dbg"),
        ("6.8.0-45-generic", "apt-get install linux-image-6.8.0-45-generic-dbgsym"),
        ("6.12.12+bpo-cloud-amd64", "linux-image-6.12.12+bpo-cloud-amd64-dbg"),
        ("6.1.0-28-rt-arm64", "linux-image-6.1.0-28-rt-arm64-dbg"),
        ("6.8.0-1016-oracle", "apt-get install linux-image-6.8.0-1016-oracle-dbgsym"),
        ("6.8.0-1008-gcp", "on Ubuntu: "),
        ("6.5.0-1025-azure", "on Ubuntu: "),
        ("6.8.0-1013-nvidia-64k", "linux-image-6.8.0-1013-nvidia-64k-dbgsym"),
        ("5.14.0-503.el9.x86_64", "'*debug*' kernel-debuginfo-5.14.0-503.el9.x86_64"),
        ("4.18.0-553.22.1.el8_10.x86_64", "kernel-debuginfo-4.18.0-553.22.1.el8_10.x86_64"),
        ("5.14.0-503.el9.aarch64+64k", "kernel-64k-debuginfo-5.14.0-503.el9.aarch64"),
        ("6.11.4-301.fc41.x86_64", "kernel-debuginfo-6.11.4-301.fc41.x86_64"),
        ("6.11.0-400.asahi.fc40.aarch64+16k", "kernel-16k-debuginfo-6.11.0-400.asahi.fc40.aarch64"),
        (
            "5.15.0-300.163.18.el9uek.x86_64",
            "on Oracle Linux: dnf install --enablerepo='*debug*' "
            "kernel-uek-debuginfo-5.15.0-300.163.18.el9uek.x86_64",
        ),
        ("6.1.112-122.189.amzn2023.x86_64", "kernel-debuginfo-6.1.112-122.189.amzn2023.x86_64"),
        (
            "6.4.0-150600.23.25-default",
            "kernel-default-debuginfo, of version 6.4.0-150600.23.25",
        ),
        ("6.11.3-1-default", "kernel-default-debuginfo, of version 6.11.3-1"),
        ("6.4.0-150600.8.14-azure", "kernel-azure-debuginfo, of version 6.4.0-150600.8.14"),
        ("6.8.12-4-pve", "apt-get install proxmox-kernel-6.8.12-4-pve-dbgsym"),
        ("5.15.158-2-pve", "get the vmlinux with debug information of 5.15.158-2-pve"),
        ("6.6.57.1-2.azl3", "tdnf install kernel-debuginfo-6.6.57.1-2.azl3"),
        ("6.12.1-zen1-1-zen", "debuginfod.archlinux.org"),
        ("6.6.59-1-lts", "debuginfod.archlinux.org"),
        ("6.6.51-0-lts; reboot", "of that build"),
        ("6.12.1-arch1-1", "DEBUGINFOD_URLS=https://debuginfod.archlinux.org"),
        ("6.9.1", "vmlinux with debug information of 6.9.1"),
    ],
)
def test_the_release_tells_where_a_dump_is_from(release: str, expected: str) -> None:
    assert expected in symbols.hint_elsewhere(release)


class FakeProgram:
    """A kernel without symbols, in a drgn that has these ``finders``."""

    def __init__(self, *finders: str) -> None:
        self._finders = set(finders)

    def registered_debug_info_finders(self) -> set[str]:
        return self._finders

    def __getitem__(self, name: str) -> Any:
        text = {"UTS_RELEASE": b"6.9.1", "VMCOREINFO": b"BUILD-ID=abcdef\n"}[name]
        return type("String", (), {"string_": lambda self: text})()


@pytest.mark.parametrize(
    ("servers", "finders", "expected"),
    [
        ("", ("standard", "debuginfod"), "no debuginfod server: DEBUGINFOD_URLS is not set"),
        ("http://a http://b", ("standard", "debuginfod"), "http://b has none, or does not answer"),
        (
            "http://a http://b",
            ("standard",),
            "http://a http://b can't be asked: libdebuginfod is not installed",
        ),
    ],
)
def test_what_was_asked_for_symbols(
    servers: str, finders: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEBUGINFOD_URLS", servers)
    prog = cast(Program, FakeProgram(*finders))
    found = list(looked_for(prog, []))
    assert "/usr/lib/debug/.build-id/ab/cdef.debug is not there" in found
    assert expected in found
    assert list(looked_for(prog, [Path("vmlinux")])) == ["vmlinux is not there"]


@pytest.mark.parametrize(
    ("release", "tools", "conf"),
    [
        ("6.12.43+deb13-amd64", True, False),
        ("6.8.0-45-generic", True, False),
        ("5.14.0-503.el9.x86_64", False, True),
        ("6.11.4-301.fc41.x86_64", False, True),
        ("6.9.1", True, True),
    ],
)
def test_the_release_tells_which_line_makes_a_better_dump(
    release: str, tools: bool, conf: bool
) -> None:
    hint = better_dump(release)
    assert "makedumpfile -l -d 23 /proc/vmcore vmcore" in hint
    assert ('/etc/default/kdump-tools: MAKEDUMP_ARGS="-c -d 23"' in hint) == tools
    core_collector = "/etc/kdump.conf: core_collector makedumpfile -l --message-level 7 -d 23"
    assert (core_collector in hint) == conf
