"""A what-if: which processes take part, and with which KSM tunables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from estimator.errors import UsageError

Scope = Literal["all", "enabled"]


@dataclass(frozen=True)
class Policy:
    """Who takes part and how ksmd is set.

    ``scope="enabled"``: the VMAs that are VM_MERGEABLE now, as if only ``run`` were set to 1.
    ``scope="all"``: as if every selected process had called ``prctl(PR_SET_MEMORY_MERGE)``.
    A process is selected if it matches one of the given values of *each* selector that is not
    empty. Tunables left at ``None`` are those of the snapshot's own kernel.
    """

    scope: Scope = "all"
    pids: tuple[int, ...] = ()
    comms: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    uids: tuple[int, ...] = ()
    max_page_sharing: int | None = None
    use_zero_pages: bool | None = None
    merge_across_nodes: bool | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for tunables that the kernel itself would refuse."""
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
