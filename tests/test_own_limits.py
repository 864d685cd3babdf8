"""What this machine lacks while a kernel is read is no damage of that kernel, wherever it shows."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from drgn import MissingDebugInfoError, Program

from estimator.errors import NoDebugInfoError, ResourceError
from estimator.kernel import linked, mm_slots, running, symbols
from estimator.kernel.ksm_settings import read_settings, thp_enabled
from estimator.kernel.vma_names import vma_names
from estimator.kernel.vmas import Vmas, excluded_by, vm_flag_values
from estimator.ksm.vm_flags import VALUES
from tests.fake_processes import FakeProcesses
from tests.fake_structs import CONSTANTS

LOST = 0xFFFF_8888_0000_0000


def vmas_with(**addresses: int) -> Vmas:
    """One VMA with these addresses in the kernel."""
    columns = {name: np.zeros(1, np.uint64) for name in ("start", "end", "flags", "anon_vma")}
    for name in ("file", "anon_name"):
        columns[name] = np.array([addresses.get(name, 0)], np.uint64)
    return Vmas(mm=np.zeros(1, np.uint32), unreadable=0, **columns)


def names(kernel: FakeProcesses, vmas: Vmas) -> Any:
    mms = np.zeros(1, [(name, "u8") for name in ("start_brk", "brk", "start_stack")])
    mms["start_stack"] = np.iinfo(np.uint64).max
    return vma_names(kernel.prog, vmas, mms).tolist()


def ksmds_list(kernel: FakeProcesses) -> Any:
    """A slot whose links can be read and whose pointer to the mm can't."""
    edge = (LOST & ~0xFFF) - kernel.offset("ksm_mm_slot", "slot.mm")
    kernel.write(edge, bytes(LOST - edge))
    kernel.append(kernel.ksm_list, edge + kernel.offset("ksm_mm_slot", "slot.mm_node"))
    return mm_slots.mm_slots(kernel.prog)


def tasks(kernel: FakeProcesses) -> Any:
    head = kernel.new("list_head")
    kernel.set("list_head", head, {"next": LOST, "prev": LOST})
    return linked.list_nodes(kernel.prog, head).tolist()


def cgroup(kernel: FakeProcesses) -> Any:
    kernel.task(1, kernel.mm(), {"cgroups": LOST})
    return kernel.read_mms().columns["cgroup"].tolist()


def setting(kernel: FakeProcesses) -> Any:
    kernel.variable("ksm_run", "unsigned long", LOST)
    return read_settings(kernel.prog).get("run")


def huge_pages(kernel: FakeProcesses) -> Any:
    kernel.variable("transparent_hugepage_flags", "unsigned long", LOST)
    return thp_enabled(kernel.prog)


def flag_table(kernel: FakeProcesses) -> Any:
    kernel.variable("vmaflag_names", "struct trace_print_flags [3]", LOST)
    return vm_flag_values(kernel.prog)["mergeable"]


SITES: list[tuple[Callable[[FakeProcesses], Any], Any]] = [
    (ksmds_list, []),
    (tasks, []),
    (cgroup, [""]),
    (setting, None),
    (huge_pages, "never"),
    (flag_table, 0x8000_0000),
    (lambda kernel: excluded_by(kernel.prog, vmas_with(file=LOST), VALUES).tolist(), [None]),
    (lambda kernel: names(kernel, vmas_with(file=LOST)), ["[unreadable]"]),
    (lambda kernel: names(kernel, vmas_with(anon_name=LOST)), ["[anon]"]),
]


@pytest.mark.parametrize(("site", "unreadable"), SITES)
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOMEM, errno.EMFILE])
def test_a_local_failure_is_skipped_and_our_own_is_told(
    site: Callable[[FakeProcesses], Any], unreadable: Any, code: int
) -> None:
    huge = {"TRANSPARENT_HUGEPAGE_FLAG": 1, "TRANSPARENT_HUGEPAGE_REQ_MADV_FLAG": 2}
    kernel = FakeProcesses(constants=CONSTANTS | huge)
    kernel.lose(LOST, OSError(code, os.strerror(code)))
    if code == errno.EIO:
        assert site(kernel) == unreadable
        return
    with pytest.raises(OSError, match=os.strerror(code)):
        site(kernel)


class Loading:
    """A Program that ``load``s debug information, and then has none."""

    def __init__(self, load: Callable[[], None]) -> None:
        self._load = load

    def load_debug_info(self, *_: object, **__: object) -> None:
        self._load()

    def main_module(self) -> Any:
        return SimpleNamespace(debug_file_status=None, build_id=b"\xab")

    def registered_debug_info_finders(self) -> set[str]:
        return set()

    enabled_debug_info_finders = registered_debug_info_finders

    def __getitem__(self, name: str) -> Any:
        return SimpleNamespace(string_=lambda: b"6.9.1")


def load(error: Exception | None, *files: Path) -> None:
    def fail() -> None:
        if error is not None:
            raise error

    symbols.load_symbols(cast(Program, Loading(fail)), files)


@pytest.fixture
def vmlinux(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinux"
    path.write_bytes(b"\x7fELF")
    return path


@contextmanager
def no_free_file() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "not enough memory"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "too many files"),
        (MemoryError(), "not enough memory"),
        (Exception("libelf error: out of memory"), "not enough memory"),
    ],
)
def test_our_own_limits_are_no_missing_symbols(
    error: Exception, message: str, vmlinux: Path
) -> None:
    for files in ((), (vmlinux,)):
        with pytest.raises(ResourceError, match=message):
            load(error, *files)


def test_symbols_that_no_file_was_left_to_open_are_not_missing(vmlinux: Path) -> None:
    """drgn says only in its log that it left out a file."""
    for files in ((), (vmlinux,)):
        for error in (None, MissingDebugInfoError("none")):
            with pytest.raises(ResourceError, match="too many files"), no_free_file():
                load(error, *files)


def test_kcore_that_no_file_was_left_to_open_is_not_refused(
    vmlinux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "KCORE", vmlinux)
    with pytest.raises(ResourceError, match="too many files"), no_free_file():
        running.kcore_refused()


def test_symbols_that_are_not_there_are_missing(vmlinux: Path) -> None:
    with pytest.raises(NoDebugInfoError, match="no debug information found"):
        load(None)
    with pytest.raises(NoDebugInfoError, match="can't be used as symbols"):
        load(MissingDebugInfoError("none"), vmlinux)
    with pytest.raises(Exception, match="libelf error: invalid") as raised:
        load(Exception("libelf error: invalid"))
    assert type(raised.value) is Exception
