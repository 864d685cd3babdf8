"""A what-if: which processes take part, and with which KSM tunables."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from estimator.errors import UsageError

Scope = Literal["all", "enabled"]
SELECTORS = ("pids", "comms", "cgroups", "uids")
"""The fields of a policy that choose processes."""
AS_IF = {
    "private": "shared memory were private",
    "no-hugetlb": "hugetlb pages were ordinary ones",
    "no-file": "pages of files were anonymous",
    "no-thp": "no page were huge",
}
"""What can be asked, in this order, and as the end of "what if"."""


@dataclass(frozen=True)
class Policy:
    """Who takes part and how ksmd is set.

    ``scope``: "all", as if every selected process had called ``prctl(PR_SET_MEMORY_MERGE)``, or
    "enabled", the VMAs that are VM_MERGEABLE now, as if only ``run`` were set to 1.

    A process is selected if it matches one of the values of *each* selector that is not empty:

    ``pids``: of thread group leaders. ``comms``: whole names as in /proc/PID/comm, or shell
    patterns. ``cgroups``: paths as in /proc/PID/cgroup, or patterns of such, each with those below
    it. ``uids``: real user ids.

    Tunables of /sys/kernel/mm/ksm; None: as the snapshot's own kernel has it:

    ``max_page_sharing``: how many mappings one KSM page may have, at least 2. ``use_zero_pages``:
    whether zero-filled pages go to the kernel's zero page. ``merge_across_nodes``: whether pages of
    different NUMA nodes merge.

    ``as_if``: filled in by ``predict``: what the snapshot is read as (``ksm.as_if``).

    Raises UsageError for what the kernel would refuse, and for a selector that is no sequence.

    >>> policy = Policy(scope="enabled", comms=("redis-server",), max_page_sharing=512)
    >>> kernel = {"max_page_sharing": 256, "use_zero_pages": 0, "merge_across_nodes": 1}
    >>> policy.with_tunables(kernel)  # doctest: +NORMALIZE_WHITESPACE
    Policy(scope='enabled', pids=(), comms=('redis-server',), cgroups=(), uids=(),
           max_page_sharing=512, use_zero_pages=False, merge_across_nodes=True, as_if=())
    """

    scope: Scope = "all"
    pids: tuple[int, ...] = ()
    comms: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    uids: tuple[int, ...] = ()
    max_page_sharing: int | None = None
    use_zero_pages: bool | None = None
    merge_across_nodes: bool | None = None
    as_if: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise UsageError for tunables that the kernel itself would refuse, and lone selectors."""
        for name in SELECTORS:
            value = getattr(self, name)
            if isinstance(value, str | int):
                raise UsageError(f"{name} is {value!r}, not a tuple", hint=f"{name}=({value!r},)")
        if self.scope not in ("all", "enabled"):
            raise UsageError(f"scope {self.scope!r} is neither 'all' nor 'enabled'")
        if self.max_page_sharing is not None and self.max_page_sharing < 2:
            raise UsageError(  # max_page_sharing_store() in mm/ksm.c
                f"max_page_sharing {self.max_page_sharing} is refused by the kernel: at least 2"
            )

    def with_tunables(self, ksm: Mapping[str, Any]) -> Policy:
        """Fill what was left open from the KSM settings ``ksm`` of a snapshot's kernel."""
        return replace(
            self,
            max_page_sharing=self.max_page_sharing or int(ksm["max_page_sharing"]),
            use_zero_pages=bool(ksm["use_zero_pages"])
            if self.use_zero_pages is None
            else self.use_zero_pages,
            merge_across_nodes=bool(ksm["merge_across_nodes"])
            if self.merge_across_nodes is None
            else self.merge_across_nodes,
        )

    def to_json(self) -> dict[str, Any]:
        """The policy as JSON values."""
        return asdict(self)


def question(what: Collection[str]) -> str:
    """The names ``what`` as a question, without its mark; "" for none.

    >>> question(("private", "no-thp"))
    'What if shared memory were private and no page were huge'
    """
    said = [words for name, words in AS_IF.items() if name in what]
    return f"What if {' and '.join(said)}" if said else ""
