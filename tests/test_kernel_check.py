"""What a check says of a kernel made by hand, and C structs as dtypes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from drgn import Architecture, Object, Platform, Program, TypeMember

from estimator.collect.findings import Finding, Findings
from estimator.errors import CannotAnswerError, TargetError
from estimator.kernel import requirements
from estimator.kernel.check_core import ask_memory
from estimator.kernel.layout import (
    first_member,
    first_type,
    has_function,
    has_member,
    has_type,
    member,
    offset,
    struct_dtype,
)
from estimator.kernel.requirements import require_ksm
from estimator.kernel.target import Target
from estimator.kernel.user_pages import why_unknown
from estimator.snapshot.flags import Unknown
from tests.fake_kernel import FakeKernel, FlatMemory
from tests.fake_processes import FakeProcesses

START = 0x7F00_0000_0000
ANON = 0xFFFF_8880_0000_1001  # a page.mapping
MERGEABLE = 0x8000_0000


class Filtered(FlatMemory):
    """Known beforehand: these frames were left out of the dump."""

    knows_gaps = True

    def __init__(self, kernel: FakeKernel, excluded: set[int]) -> None:
        super().__init__(kernel.prog)
        self._excluded = list(excluded)

    def unknown(self, pfns: Any) -> Any:
        return np.where(np.isin(pfns, self._excluded), Unknown.EXCLUDED, 0).astype(np.uint8)


def asked(
    kernel: FakeProcesses, excluded: set[int], *, without_contents: bool = False
) -> dict[str, Finding]:
    findings = Findings()
    memory = Filtered(kernel, excluded)
    ask_memory(Target(kernel.prog, memory, "core", "vmcore", "ELF"), findings, without_contents)
    return {finding.subject: finding for finding in findings.found}


def opted_in() -> FakeProcesses:
    """A process with 8 anonymous pages and 2 of a file in a mergeable VMA, and one without."""
    kernel = FakeProcesses(functions={"ksm_enable_merge_any"})
    kernel.integer("ksm_smart_scan", 1)
    kernel.integer("ksm_run", 1)
    kernel.integer("ksm_pages_sharing", 1234)
    mm = kernel.mm({"flags": 1 << 30})
    fields = {"anon_vma": 1, "vm_flags": MERGEABLE | 0x73}
    kernel.spans(
        mm, (START, START + 0x10000, fields), (START + 0x10000, START + 0x20000, {"vm_flags": 0x73})
    )
    kernel.spans(kernel.mm(), (START, START + 0x10000, {}))
    for page in range(10):
        pfn = 0x100 + page
        kernel.map(kernel.pgd(mm), START + (page << 12), pfn << 12 | 1)
        kernel.page(pfn, ("lru",), {"mapping": ANON if page < 8 else ANON - 1})
        kernel.frame(pfn, b"x")
    return kernel


@pytest.fixture
def kernel() -> FakeProcesses:
    return opted_in()


def test_what_a_whole_dump_allows(kernel: FakeProcesses) -> None:
    found = asked(kernel, set())
    assert list(found) == ["memory", "KSM", "coverage", "time"]
    assert {finding.status for finding in found.values()} == {"ok"}
    assert found["memory"].facts == {"processes": 2, "anonymous_bytes": 8 * 4096}
    assert found["coverage"].facts == {"coverage": 1.0}
    ksm = {"run": 1, "pages_sharing": 1234, "prctl_processes": 1, "mergeable_vmas": 1}
    assert found["KSM"].facts == ksm
    time = found["time"].facts
    assert 0 < time["start_up_seconds"] <= time["seconds"]


def test_what_a_filtered_dump_allows(kernel: FakeProcesses) -> None:
    found = asked(kernel, {0x100, 0x101, 0x108})
    assert found["coverage"].status == "warn"
    assert found["coverage"].facts == {"coverage": 6 / 8}
    with pytest.raises(CannotAnswerError, match="no user pages: 5 of 8 anonymous") as caught:
        asked(kernel, set(range(0x100, 0x105)))
    for way in ("makedumpfile -l -d 23", "--without-contents", "kdump.conf", "kdump-tools"):
        assert way in str(caught.value.hint)


def test_what_a_filtered_dump_allows_without_contents(kernel: FakeProcesses) -> None:
    found = asked(kernel, set(range(0x100, 0x10A)), without_contents=True)
    assert list(found) == ["memory", "KSM", "coverage", "time"]
    assert found["coverage"].status == "warn"
    assert found["coverage"].facts == {"coverage": 0.0}
    assert "upper bound" in found["coverage"].text


def test_a_dump_that_only_reading_tells_of() -> None:
    """As a flattened one: nothing is known beforehand."""
    kernel = FakeKernel()
    for pfn in range(8):
        if pfn % 2:
            kernel.frame(pfn, b"x")
    target = Target(kernel.prog, FlatMemory(kernel.prog), "core", "vmcore", "flattened")
    found = why_unknown(target, np.arange(8, dtype=np.uint64))
    assert found.tolist() == [Unknown.UNREADABLE, Unknown.HASHED] * 4


def test_a_kernel_whose_own_data_is_lost(kernel: FakeProcesses) -> None:
    kernel.variable("zero_pfn", "unsigned long", 0xFFFF_8888_0000_0000)
    with pytest.raises(TargetError, match="own data can't be read"):
        asked(kernel, set())


def test_what_the_reader_needs_of_a_kernel() -> None:
    require_ksm(FakeProcesses().prog)
    with pytest.raises(CannotAnswerError, match=r"6\.12\.0 is built without CONFIG_KSM"):
        require_ksm(FakeKernel().prog)
    with pytest.raises(CannotAnswerError, match=r"of riscv64, .*supported are x86_64 and arm64"):
        require_ksm(Program(Platform(Architecture.RISCV64)))
    arm64 = FakeKernel(architecture=Architecture.AARCH64)
    arm64.variable("ksm_mm_head", "struct ksm_mm_slot", 0xFFFF_8888_0000_0000)
    assert "variable `protection_map`" in requirements.missing(arm64.prog)
    assert "variable `protection_map`" not in requirements.missing(FakeProcesses().prog)


# layout.py

LAYOUT = {
    "inner": "low:u8 high:i16@2",
    "wide": "words:u64[3]",
    "outer": "first:u32 inner:inner@4 signed:i32 next:ptr@16 list:u16[4] wide:wide one:inner2@64",
    "inner2": "word:u64",
}


def test_members_become_fields_at_their_offsets() -> None:
    prog = FakeKernel(LAYOUT).prog
    members = {"low": "inner.low", "high": "inner.high", "to": "next", "n": "list", "s": "signed"}
    dtype = struct_dtype(prog, "struct outer", {**members, "wide": "wide", "one": "one"})
    fields: Mapping[str, Any] = dtype.fields or {}
    assert {name: (fields[name][0].str, fields[name][1]) for name in members if name != "n"} == {
        "low": ("|u1", 4),
        "high": ("<i2", 6),
        "to": ("<u8", 16),
        "s": ("<i4", 8),
    }
    assert (fields["n"][0].shape, fields["n"][0].base.str) == ((4,), "<u2")
    assert fields["wide"][0].shape == (3,)  # a struct as words
    assert fields["one"][0].str == "<u8"
    assert dtype.itemsize == 72
    assert struct_dtype(prog, "struct outer", {"low": "inner.low"}, 256).itemsize == 256
    assert offset(prog, "struct outer", "inner.high") == 6


def test_what_this_kernel_has() -> None:
    prog = FakeKernel(LAYOUT, functions={"old_name"}).prog
    assert has_member(prog, "struct outer", "inner.low")
    assert not has_member(prog, "struct outer", "inner.none")
    assert not has_member(prog, "struct outer", "first.none")
    assert not has_member(prog, "struct nothing", "first")
    assert first_member(prog, "struct outer", "renamed", "first", "signed") == "first"
    assert first_type(prog, "struct renamed", "struct inner", "struct outer") == "struct inner"
    assert has_type(prog, "struct inner")
    assert has_function(prog, "old_name")
    assert not has_function(prog, "new_name")
    for missing in (
        lambda: struct_dtype(prog, "struct outer", {"x": "none"}),
        lambda: offset(prog, "struct outer", "none"),
        lambda: first_member(prog, "struct outer", "none", "neither"),
        lambda: first_type(prog, "struct none", "struct neither"),
    ):
        with pytest.raises(LookupError):
            missing()


def test_what_is_no_numbers_is_no_member() -> None:
    """Types as damaged type information may have them."""
    prog = FakeKernel().prog
    word = prog.type("unsigned int")
    bits = TypeMember(Object(prog, word, bit_field_size=3), "bits", 32)
    function = TypeMember(prog.function_type(word, ()), "function", 64)
    inside = TypeMember(prog.struct_type("unknown"), "inside", 64)
    type_ = prog.struct_type("flags", 8, [TypeMember(word, "plain"), bits, function, inside])
    assert member(type_, "plain") == (np.dtype("<u4"), 0)
    for path in ("bits", "function", "inside", "inside.more"):
        assert member(type_, path) is None
    assert member(prog.struct_type("unknown"), "more") is None


def test_imports_no_pandas() -> None:
    code = "import sys; sys.modules['pandas'] = None; "  # its import fails
    code += "from tests.test_kernel_check import asked, opted_in; asked(opted_in(), set())"
    subprocess.run([sys.executable, "-c", code], check=True)
