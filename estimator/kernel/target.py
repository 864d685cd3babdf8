"""A kernel that can be read."""

from __future__ import annotations

from dataclasses import dataclass

from drgn import Program

from estimator.kernel.memory import Memory


@dataclass(frozen=True)
class Target:
    """A kernel to read: ``kind`` is "core", "live" or "qemu"; ``path`` what was opened."""

    prog: Program
    memory: Memory
    kind: str
    path: str
    format: str
    warnings: tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        """Whether what is read may change meanwhile."""
        return self.kind != "core"
