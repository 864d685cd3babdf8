"""What the reader needs of a kernel, checked before work."""

from __future__ import annotations

from drgn import Architecture, Program

from estimator.errors import CannotAnswerError
from estimator.kernel.symbols import kernel_release


def require_ksm(prog: Program) -> None:
    """Raise CannotAnswerError unless this kernel has KSM and page tables that we can decode."""
    platform = prog.platform
    if platform is None or platform.arch != Architecture.X86_64:
        name = platform.arch.name if platform else "unknown"
        raise CannotAnswerError(f"page tables of architecture {name} can't be decoded, only X86_64")
    if "ksm_mm_head" not in prog:
        raise CannotAnswerError(f"kernel {kernel_release(prog)} is built without CONFIG_KSM")
