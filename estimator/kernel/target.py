"""A kernel that can be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from drgn import Program

from estimator.kernel.memory import Memory


@dataclass(frozen=True)
class Target:
    """A kernel to read: ``kind`` is "core", "live" or "qemu"; ``path`` what was opened.

    As a context it closes what was opened beside ``prog``, which closes its own files when nothing
    refers to it any more.
    """

    prog: Program
    memory: Memory
    kind: str
    path: str
    format: str
    warnings: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.memory.close()

    @property
    def damage(self) -> str:
        """Why it may be that memory can't be read, in a sentence."""
        if self.warnings:
            return self.warnings[0]
        if self.running:
            return f"{self.path} does not give all of the kernel's memory"
        return f"{self.path} is damaged or incomplete"

    @property
    def running(self) -> bool:
        """Whether what is read may change meanwhile."""
        return self.kind != "core"
