"""Which VMAs can map pages that are not anonymous, and could be: shared memory, hugetlb, files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from drgn import Program

from estimator.arrays import Bytes, Mask, Words
from estimator.kernel.layout import struct_dtype
from estimator.kernel.memory import Memory
from estimator.kernel.vmas import S_DAX, Vmas
from estimator.ksm.vm_flags import EXCLUDING
from estimator.snapshot.flags import FrameKind

_TMPFS_MAGIC = 0x0102_1994  # include/uapi/linux/magic.h
_UNREADABLE = (0x5345_434D, 0x474D_454D)  # secretmem and guest_memfd: not ours to read
_S_IFMT, _S_IFREG = 0o170000, 0o100000
_LIFTED = ("hugetlb", "shared", "mayshare")


def other_kinds(
    prog: Program, memory: Memory, vmas: Vmas, flags: Mapping[str, int], contents: str
) -> Bytes:
    """The ``FrameKind`` of page cache that each VMA maps, u8; 0: none, or not asked for.

    ``flags``: the values of VM_* in this kernel. ``contents``: one of ``CONTENTS``. 0 also where
    vma_ksm_compatible() (mm/ksm.c) would refuse the VMA were it neither shared nor hugetlb.
    """
    kinds = np.zeros(len(vmas.start), np.uint8)
    if contents == "anonymous":
        return kinds
    hugetlb = _has(vmas.flags, flags["hugetlb"])
    tmpfs, regular = _files(prog, memory, vmas.file)
    kinds[tmpfs] = FrameKind.SHMEM
    if contents == "all,file":
        kinds[regular & ~tmpfs] = FrameKind.FILE
    kinds[hugetlb] = FrameKind.HUGETLB
    for name in set(EXCLUDING) - set(_LIFTED):
        shut = _has(vmas.flags, flags[name])
        if name == "dontexpand":  # which hugetlbfs_file_mmap() sets in every VMA
            shut &= ~hugetlb
        kinds[shut] = 0
    return kinds


def _has(vm_flags: Words, bits: int) -> Mask:
    return (vm_flags & np.uint64(bits)) != 0


def _files(prog: Program, memory: Memory, files: Words) -> tuple[Mask, Mask]:
    """Of each struct file (0: none): it is of tmpfs; it is a regular file and not DAX."""
    unique, place = np.unique(files, return_inverse=True)
    file, ok = _structs(prog, memory, unique, "struct file", {"inode": "f_inode"})
    ok &= unique != 0
    inode, read = _structs(
        prog,
        memory,
        np.where(ok, file["inode"], 0).astype(np.uint64),
        "struct inode",
        {"sb": "i_sb", "mode": "i_mode", "flags": "i_flags"},
    )
    ok &= read & ((inode["flags"] & S_DAX) == 0)
    sb, read = _structs(
        prog,
        memory,
        np.where(ok, inode["sb"], 0).astype(np.uint64),
        "struct super_block",
        {"magic": "s_magic"},
    )
    ok &= read & ~np.isin(sb["magic"], _UNREADABLE)
    tmpfs = ok & (sb["magic"] == _TMPFS_MAGIC)
    regular = ok & ((inode["mode"] & _S_IFMT) == _S_IFREG)
    return tmpfs[place], regular[place]


def _structs(
    prog: Program, memory: Memory, addresses: Words, name: str, members: dict[str, str]
) -> tuple[npt.NDArray[Any], Mask]:
    return memory.structs(addresses, struct_dtype(prog, name, members))
