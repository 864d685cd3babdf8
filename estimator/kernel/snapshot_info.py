"""What snapshot.json says of a kernel, and of how it was read."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from estimator._version import __version__
from estimator.collect.further_hashes import Wanted
from estimator.collect.seed import about_hash
from estimator.kernel import ksm_settings as settings
from estimator.kernel.identity import boot_id, host
from estimator.kernel.layout import first_variable
from estimator.kernel.requirements import ZERO_PFN
from estimator.kernel.symbols import source_of_symbols
from estimator.kernel.vmcoreinfo import kernel_build_id, kernel_release
from estimator.snapshot.flags import FrameFlag
from estimator.snapshot.format import FORMAT_VERSION

if TYPE_CHECKING:
    from drgn import Program

    from estimator.kernel.page_array import PageArray
    from estimator.kernel.processes import Mms
    from estimator.kernel.target import Target


def snapshot_info(
    target: Target,
    *,
    started: datetime.datetime,
    clock: dict[str, Any],
    seed: int,
    wanted: Wanted,
    without_contents: bool,
    contents: str,
    mms: Mms,
    pages: PageArray,
    unknown: dict[str, int],
) -> dict[str, Any]:
    """See ``estimator.snapshot.format``; the collection began when it ``started``, and ends now.

    ``clock``: the time in that kernel. ``pages``: its struct pages. ``unknown``: how many of what
    could not be read.
    """
    prog = target.prog
    return {
        "format_version": FORMAT_VERSION,
        "program_version": __version__,
        "kernel": {
            "release": kernel_release(prog),
            "machine": prog.platform.arch.name.lower() if prog.platform else "unknown",
            "page_size": target.memory.page_bytes,
            "build_id": kernel_build_id(prog),
            **clock,
        },
        "source": {
            "kind": target.kind,
            "path": target.path,
            "format": target.format,
            "warnings": list(target.warnings),
        },
        "host": host(prog),
        "boot_id": boot_id(prog),
        "machine_id": None,
        "collected_at": started.isoformat(timespec="seconds"),
        "collect_seconds": (datetime.datetime.now(datetime.UTC) - started).total_seconds(),
        "hash": about_hash(seed),
        **wanted.info(seed, target.memory.page_bytes),
        "ksm": settings.read_settings(prog) | {"ksmd_cpu_ns": mms.ksmd_cpu_ns},
        "sizes": settings.struct_sizes(prog),
        **settings.features(prog),
        "symbols": source_of_symbols(prog),
        "thp_enabled": settings.thp_enabled(prog),
        "thp_orders": settings.thp_orders(prog),
        "damon_runs": mms.damon.runs,
        "damon_awake": mms.damon.awake,
        "zero_page_tagged": _zero_page_tagged(prog, pages),
        "without_contents": without_contents,
        "contents": contents,
        "unknown": unknown,
    }


def _zero_page_tagged(prog: Program, pages: PageArray) -> bool | None:
    """PG_mte_tagged of the kernel's zero page; None: its struct page can't be read."""
    pfn = int(first_variable(prog, *ZERO_PFN))
    found = pages.read(np.array([pfn], np.uint64))
    return bool(found.flags[0] & FrameFlag.MTE) if found.ok[0] else None
