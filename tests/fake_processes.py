"""Tasks, mm_structs, VMAs in maple trees and ksmd's list in a kernel made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from estimator.kernel.processes import Mms, read_processes
from tests.fake_kernel import DIRECT_MAP, FakeKernel, Fields
from tests.fake_structs import CONSTANTS, STRUCTS

LEAF, RANGE, ARANGE = (CONSTANTS[f"maple_{n}_64"] for n in ("leaf", "range", "arange"))
NO_LIMIT = (1 << 64) - 1
Slot = tuple[int, int]  # the last address, and what is there: 0 for a gap


class FakeProcesses(FakeKernel):
    """A kernel with init_task and an empty list of ksmd; see ``FakeKernel``."""

    def __init__(self, structs: Mapping[str, str] = STRUCTS, **options: Any) -> None:
        super().__init__(structs, **options)
        old = "ksm_mm_slot" not in structs
        self._slot_tag = "mm_slot" if old else "ksm_mm_slot"
        self._slot_link, self._slot_mm = ("mm_list", "mm") if old else ("slot.mm_node", "slot.mm")
        self._tasks = self.offset("task_struct", "tasks")
        self._head = self.global_("init_task", "task_struct") + self._tasks
        self.empty_list(self._head)
        slot = self.global_("ksm_mm_head", self._slot_tag)
        self.ksm_list = slot + self.offset(self._slot_tag, self._slot_link)
        self.empty_list(self.ksm_list)
        self.empty_list(self.global_("migrate_nodes", "list_head"))
        self.ksm_scan = self.global_("ksm_scan", "ksm_scan")
        self.set("ksm_scan", self.ksm_scan, {"mm_slot": slot})
        root = self.string(self.new("rb_root").to_bytes(8, "little"))
        self.variable("root_stable_tree", "struct rb_root *", root)
        self.global_("init_uts_ns", "uts_namespace")

    def mm(self, fields: Fields | None = None, *, listed: bool = True, apart: bool = False) -> int:
        """An mm_struct in use, with an empty page table; ``listed``: ksmd knows it."""
        pgd = DIRECT_MAP + (self.page_table() << 12)
        usual: Fields = {"pgd": pgd, "mm_users.counter": 1, "map_count": 0}
        mm = self.new("mm_struct", {**usual, **(fields or {})}, apart=apart)
        if listed:
            slot = self.new(self._slot_tag, {self._slot_mm: mm})
            self.append(self.ksm_list, slot + self.offset(self._slot_tag, self._slot_link))
        return mm

    def vma(self, mm: int, start: int, end: int, fields: Fields | None = None) -> int:
        """A vm_area_struct, not in a tree yet."""
        usual: Fields = {"vm_start": start, "vm_end": end, "vm_mm": mm}
        return self.new("vm_area_struct", {**usual, **(fields or {})})

    def spans(self, mm: int, *spans: tuple[int, int, Fields]) -> list[int]:
        """Give ``mm`` these VMAs (start, end, fields; ascending), in a leaf; their addresses."""
        vmas = [self.vma(mm, *span) for span in spans]
        slots: list[Slot] = []
        for (start, end, _), vma in zip(spans, vmas, strict=True):
            if start != (slots[-1][0] + 1 if slots else 0):
                slots.append((start - 1, 0))
            slots.append((end - 1, vma))
        self.root(mm, self.node(LEAF, [*slots, (NO_LIMIT, 0)]))
        self.set("mm_struct", mm, {"map_count": len(vmas)})
        return vmas

    def node(self, kind: int, slots: Sequence[Slot], *, apart: bool = False) -> int:
        """A pointer to a maple node with these slots. Its last pivot may not fit.

        Pivots behind that are 0.
        """
        tag = "maple_arange_64" if kind == ARANGE else "maple_range_64"
        node = self.new("maple_node", apart=apart)
        room = 9 if kind == ARANGE else 15
        pivots = [last for last, _ in slots[:room]]
        targets = [to for _, to in slots]
        self.set(tag, node, {"parent": DIRECT_MAP + 1, "pivot": pivots, "slot": targets})
        return node | kind << 3 | 4

    def root(self, mm: int, node: int) -> None:
        """The root of the tree of ``mm``."""
        self.set("mm_struct", mm, {"mm_mt.ma_root": node | 2})

    def pgd(self, mm: int) -> int:
        """Its top-level page table."""
        at = mm + self.offset("mm_struct", "pgd")
        return int(self.prog.read_u64(at))

    def task(
        self,
        pid: int,
        mm: int,
        fields: Fields | None = None,
        *,
        uid: int = 0,
        threads: int = 1,
        apart: bool = False,
    ) -> int:
        """A thread group leader at the end of the list of tasks."""
        signal = self.new("signal_struct", {"nr_threads": threads})
        self.empty_list(signal + self.offset("signal_struct", "thread_head"))
        usual: Fields = {
            "pid": pid,
            "mm": mm,
            "__state": 0,
            "static_prio": 120,
            "comm": b"task%d\0" % pid,
            "signal": signal,
            "cred": self.new("cred", {"uid.val": uid}),
        }
        task = self.new("task_struct", {**usual, **(fields or {})}, apart=apart)
        self.append(self._head, task + self._tasks)
        return task

    def thread(self, leader: int, mm: int) -> int:
        """Another thread of the group of ``leader``."""
        signal = self.prog.read_u64(leader + self.offset("task_struct", "signal"))
        task = self.new("task_struct", {"mm": mm})
        head = signal + self.offset("signal_struct", "thread_head")
        self.append(head, task + self.offset("task_struct", "thread_node"))
        return task

    def read_mms(self) -> Mms:
        """What ``read_processes`` finds."""
        return read_processes(self.prog, self.memory)
