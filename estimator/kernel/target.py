"""A kernel that can be read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from drgn import Program

from estimator.arrays import Mask
from estimator.collect.namespaces import in_first_namespace
from estimator.kernel.memory import Memory

_PROC = Path("/proc")


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

    def ours(self, pids: npt.NDArray[np.int32]) -> Mask:
        """Which of ``pids``, as the kernel has them, is this process; none where it can't know.

        In a PID namespace of its own a process does not know the pid that the kernel goes by.
        """
        known = self.kind == "live" and in_first_namespace(_PROC, "pid")
        ours: Mask = (pids == os.getpid()) & known
        return ours

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
