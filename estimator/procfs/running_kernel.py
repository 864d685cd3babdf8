"""What the running kernel was built from: by sysfs, kallsyms and BTF, before its release."""

from __future__ import annotations

import contextlib
import functools
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from estimator.collect.btf_records import BtfError, BtfRecords, Kind
from estimator.ksm.features import about_features, debian_release

_KSM = Path("/sys/kernel/mm/ksm")
_SLAB = Path("/sys/kernel/slab")
_KALLSYMS = Path("/proc/kallsyms")
_BTF = Path("/sys/kernel/btf/vmlinux")
_UBUNTU = Path("/proc/version_signature")
# what is there as soon as KSM is: the file of /sys/kernel/mm/ksm for a variable of mm/ksm.c
_FILES = {
    "ksm_zero_pages": "ksm_zero_pages",
    "ksm_smart_scan": "smart_scan",
    "ksm_advisor": "advisor_mode",
}
# bytes on every 64-bit kernel from 5.19 to 6.18
_USUAL_SIZES = {"ksm_rmap_item": 64, "ksm_stable_node": 64, "ksm_mm_slot": 48}


class RunningKernel:
    """``KernelSource`` of ``estimator.ksm.features``, as far as the kernel's files tell.

    /proc/kallsyms and BTF have the functions that are not inlined; BTF has all structs that
    anything uses, and is missing in kernels without CONFIG_DEBUG_INFO_BTF.
    """

    def has_function(self, name: str) -> bool | None:
        """True if it is seen; else it may be inlined."""
        seen = self._is_symbol(name.encode()) or (
            self._btf and self._btf.numbers(name, [Kind.FUNC])
        )
        return True if seen else None

    def _is_symbol(self, name: bytes) -> bool:
        """Whether kallsyms has a function ``name``, but for what the compiler adds after a dot."""
        at = self._kallsyms.find(name)
        while at >= 0:
            end = at + len(name)
            before, behind = self._kallsyms[max(at - 3, 0) : at], self._kallsyms[end : end + 1]
            if before.lower() == b" t " and behind in (b".", b"\t", b"\n"):
                return True
            at = self._kallsyms.find(name, at + 1)
        return False

    def has_variable(self, name: str) -> bool | None:
        """By the files of sysfs."""
        if name not in _FILES or not _KSM.is_dir():
            return None
        return (_KSM / _FILES[name]).exists()

    def has_constant(self, name: str) -> bool | None:
        """False also if it is a macro."""
        return None if self._btf is None else self._btf.enum_with(name) is not None

    def has_member(self, struct: str, member: str) -> bool | None:
        """False also if there is no such struct."""
        if self._btf is None:
            return None
        found = self._btf.numbers(struct, [Kind.STRUCT])
        return any(member in _members(self._btf, number) for number in found)

    def function_parameters(self, name: str) -> int | None:
        """None also if it is inlined everywhere."""
        if self._btf is None:
            return None
        found = self._btf.numbers(name, [Kind.FUNC])
        return len(list(self._btf.each(self._btf.word(found[0], 2)))) if found else None

    def struct_bytes(self, name: str) -> int | None:
        """The size of a struct of mm/ksm.c, which is also the name of its slab cache.

        SLAB_MERGE makes one cache of several: only if their objects, in whole words, are of one
        size (find_mergeable() in mm/slab_common.c).
        """
        with contextlib.suppress(OSError, ValueError):
            return int((_SLAB / name / "object_size").read_text())
        found = self._btf.numbers(name, [Kind.STRUCT]) if self._btf else []
        return self._btf.word(found[0], 2) if self._btf and found else None

    @functools.cached_property
    def _kallsyms(self) -> bytes:
        """A line for each symbol: address, type and name; a tab and the module's, if it is one."""
        with contextlib.suppress(OSError):
            return _KALLSYMS.read_bytes()
        return b""

    @functools.cached_property
    def _btf(self) -> BtfRecords | None:
        with contextlib.suppress(OSError, BtfError):
            return BtfRecords(_BTF.read_bytes())
        return None


def _members(btf: BtfRecords, number: int) -> Iterator[str]:
    """Names of the members of a struct, those of its members without a name included."""
    for offset, type_, *_ in btf.each(number):
        name = btf.string(offset)
        if name:
            yield name
        elif btf.kind(type_) in (Kind.STRUCT, Kind.UNION):
            yield from _members(btf, type_)


def features(kernel: RunningKernel, release: str) -> dict[str, Any]:
    """``info["features"]``, and ``info["features_by_release"]``: those that only ``release`` tells.

    ``release``: see ``upstream_release``.
    """
    return about_features(kernel, release)


def struct_sizes(kernel: RunningKernel) -> tuple[dict[str, int], list[str]]:
    """``info["sizes"]``, and the structs for which they are only assumed."""
    found = {name: kernel.struct_bytes(name) for name in _USUAL_SIZES}
    sizes = {name: size or _USUAL_SIZES[name] for name, size in found.items()}
    return sizes, [name for name, size in found.items() if size is None]


def upstream_release() -> str:
    """The release of kernel.org behind this kernel: distributions keep ``uname -r`` at X.Y.0.

    Debian says it in ``uname -v``, Ubuntu in /proc/version_signature.
    """
    debian = debian_release(platform.version())
    if debian:
        return debian
    with contextlib.suppress(OSError, IndexError):
        return _UBUNTU.read_text().split()[2]
    return platform.release()
