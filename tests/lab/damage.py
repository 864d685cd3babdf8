"""Damage to a dump, at the places that the program reads; undone when a case is over."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Program, sizeof
from drgn.helpers.linux.mm import follow_phys, for_each_vma
from drgn.helpers.linux.pid import for_each_task

from estimator.arrays import Bytes, Mask, Words
from estimator.kernel.collect import collect
from estimator.kernel.core import open_core
from estimator.kernel.dump.file import inspect
from estimator.kernel.layout import first_member
from estimator.kernel.memory.elf import MappedElf
from estimator.kernel.target import Target

PAGE_SIZE = 4096
WORD = 8
_MOST_MEMORY = 1 << 40
_STRUCTS = {  # what is read, by a field that only it has
    "pivot": "maple nodes",
    "vm_start": "VMAs",
    "pgd": "mm_structs",
    "comm": "task_structs",
    "order": "folios",
    "kpfn": "stable nodes",
    "oldchecksum": "rmap_items",
}

KALLSYMS = {  # of its tables, as many bytes as are read at least
    "kallsyms_names": 1 << 20,
    "kallsyms_markers": 1 << 10,
    "kallsyms_token_table": 512,
    "kallsyms_token_index": 512,
    "kallsyms_offsets": 1 << 18,
}

Ranges = dict[str, list[tuple[int, int]]]  # what -> [(offset in the file, bytes)]


class Spy(MappedElf):
    """Notes where in the file everything lies that is read."""

    def __init__(self, *arguments: Any) -> None:
        self.read: Ranges = {}
        super().__init__(*arguments)

    def frames(self, pfns: Words) -> tuple[Bytes, Bytes]:
        self.note("page tables", pfns << np.uint64(12), PAGE_SIZE)
        return super().frames(pfns)

    def structs(self, addresses: Words, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], Mask]:
        names = dtype.names or ()
        what = next((_STRUCTS[name] for name in names if name in _STRUCTS), "struct pages")
        self.note(what, addresses - np.uint64(self.direct_map), dtype.itemsize)
        return super().structs(addresses, dtype)

    def virtual_run(self, address: int, data: Bytes) -> bool:
        in_memory = 0 <= address - self.direct_map < _MOST_MEMORY  # what lies beyond is vmemmap
        whole_page = address % PAGE_SIZE == 0 and data.size == PAGE_SIZE
        what = "rmap_items" if in_memory and whole_page else "struct pages"
        self.note_virtual(what, address & -PAGE_SIZE, data.size)
        return super().virtual_run(address, data)

    def note_virtual(self, what: str, address: int, size: int) -> None:
        """Note ``size`` bytes from the kernel address ``address`` on, page by page."""
        kernel = self.prog["init_mm"].address_of_()
        end = address + size
        while address < end:
            length = min(end, (address | (PAGE_SIZE - 1)) + 1) - address
            with contextlib.suppress(FaultError):
                physical = follow_phys(kernel, address).value_()
                self.note(what, np.array([physical], np.uint64), length)
            address += length

    def note(self, what: str, physical: Words, size: int) -> None:
        """Note ``size`` bytes at each of the addresses ``physical``."""
        offsets, unknown = self._locate(physical, size)
        ranges = self.read.setdefault(what, [])
        ranges += [(offset, size) for offset in offsets[unknown == 0].tolist()]


def places(elf: Path, vmlinux: Path) -> Ranges:
    """Where the ELF dump ``elf`` keeps what a snapshot is made from; and its headers."""
    target = open_core(elf, [vmlinux])
    dump = inspect(elf)
    spy = Spy(target.prog, dump)
    collect(Target(target.prog, spy, "core", str(elf), "elf"))
    for what, addresses, type_ in _path_nodes(target.prog):
        spy.note(what, addresses - np.uint64(spy.direct_map), sizeof(target.prog.type(type_)))
    for what, start, end in _carried(target.prog):
        spy.note_virtual(what, start, end - start)
    found = {what: sorted(set(ranges)) for what, ranges in spy.read.items() if ranges}
    return found | {"headers": [(0, int(dump.loads["offset"].min()))]}


def _carried(prog: Program) -> Iterator[tuple[str, int, int]]:
    """What the kernel carries of its own types and symbols: what, its addresses from, to."""
    start, end = (prog.symbol(name).address for name in ("__start_BTF", "__stop_BTF"))
    strings = start + int.from_bytes(prog.read(start + 16, 4), "little")  # str_off of its header
    yield "BTF header", start, start + 24
    yield "BTF types", start + 24, strings
    yield "BTF strings", strings, end
    for name in KALLSYMS:
        address = prog.symbol(name).address
        yield name, address, address + KALLSYMS[name]


def _path_nodes(prog: Program) -> Iterator[tuple[str, Words, str]]:
    """What paths are made from: what, addresses, C type."""
    dentries, nodes = set(), set()
    parent = first_member(prog, "struct kernfs_node", "__parent", "parent")
    for task in for_each_task(prog):
        node = task.cgroups.dfl_cgrp.kn
        while node:
            nodes.add(node.value_())
            node = node.member_(parent)
        for vma in for_each_vma(task.mm) if task.mm else ():
            dentry = vma.vm_file.f_path.dentry if vma.vm_file else None
            while dentry is not None and dentry.value_() not in dentries:
                dentries.add(dentry.value_())
                dentry = dentry.d_parent
    yield "dentries", np.array(sorted(dentries), np.uint64), "struct dentry"
    yield "kernfs nodes", np.array(sorted(nodes), np.uint64), "struct kernfs_node"


def cut(source: Path, destination: Path, percent: int) -> None:
    """Copy the first ``percent`` of a file."""
    size = source.stat().st_size * percent // 100
    with source.open("rb") as old, destination.open("wb") as new:
        while size and (piece := old.read(min(size, 1 << 24))):
            new.write(piece)
            size -= len(piece)


@dataclass(frozen=True)
class Damage:
    """Words to overwrite: {offset: new bytes}; ``text`` says what and how."""

    text: str
    words: dict[int, bytes]


def damage(
    file: Path, ranges: Ranges, what: str, numbers: random.Random, most_words: int = 6
) -> Damage:
    """Some words of ``what`` changed: bits flipped, zeroed, replaced by what stands elsewhere."""
    how = numbers.choice(("bit", "random", "zero", "ones", "elsewhere", "small"))
    words = {}
    with file.open("rb") as old:

        def word() -> tuple[int, bytes]:
            start, size = numbers.choice(ranges[what])
            at = start + numbers.randrange(max(1, size // WORD)) * WORD
            old.seek(at)
            return at, old.read(WORD)

        for _ in range(numbers.randint(1, most_words)):
            at, value = word()
            for _ in range(50):  # most of a page table is empty: prefer what is not
                if any(value):
                    break
                at, value = word()
            words[at] = _changed(value, how, numbers, word()[1])
    return Damage(f"{what}, {how}: {[hex(at) for at in words]}", words)


def _changed(value: bytes, how: str, numbers: random.Random, elsewhere: bytes) -> bytes:
    if how == "bit":
        flipped = int.from_bytes(value, "little") ^ 1 << numbers.randrange(8 * len(value))
        return flipped.to_bytes(len(value), "little")
    if how == "elsewhere":
        return elsewhere
    if how == "small":
        return numbers.randrange(1 << 13).to_bytes(WORD, "little")
    return {"random": numbers.randbytes(WORD), "zero": bytes(WORD), "ones": b"\xff" * WORD}[how]


@contextmanager
def applied(file: Path, change: Damage) -> Iterator[None]:
    """``file`` with the damage, until the context ends."""
    with file.open("r+b") as handle:
        before = {}
        for at, value in change.words.items():
            handle.seek(at)
            before[at] = handle.read(len(value))
            handle.seek(at)
            handle.write(value)
        handle.flush()
        try:
            yield
        finally:
            for at, value in before.items():
                handle.seek(at)
                handle.write(value)
