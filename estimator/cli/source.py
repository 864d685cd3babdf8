"""What a command reads: the options that name a target, and the snapshot made from it.

The target is always named. If it can't be read, that is the answer: no other one is tried.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from estimator.cli.options import Command, options
from estimator.cli.quantities import FiniteRange, Size
from estimator.collect.budget import require_room_to_start
from estimator.collect.limits import own_limits
from estimator.collect.load import Pace, lower_priority
from estimator.errors import UsageError
from estimator.snapshot.format import CONTENTS

if TYPE_CHECKING:
    from estimator.collect.findings import Findings
    from estimator.collect.further_hashes import Wanted
    from estimator.collect.progress import Progress
    from estimator.snapshot.gathered import Gathered
    from estimator.snapshot.snapshot import Snapshot


@dataclass(frozen=True)
class Source:
    """The target options of one command line; exactly one of the first four is set."""

    core: tuple[Path, ...]
    live: bool
    qemu: str | None
    procfs: bool
    symbols: tuple[Path, ...]
    architecture: str | None
    without_contents: bool
    contents: str = CONTENTS[0]
    seed_file: Path | None = None
    like: Path | None = None
    rate: float | None = None
    workers: int | None = None
    passes: int = 1
    interval: float | None = None
    max_memory: int | None = None
    pieces: bool = False
    near: bool = False

    def check(self) -> None:
        """Raise UsageError unless exactly one target is named."""
        named = [name for name in TARGETS if getattr(self, name)]
        if not named:
            raise UsageError("name the target: --live, --core VMCORE, --qemu SOCKET or --procfs")
        if len(named) > 1:
            raise UsageError(f"name one target, not {' and '.join(f'--{name}' for name in named)}")
        if self.seed_file and self.like:
            raise UsageError("the seed is that of --seed-file or that of --like, not both")
        if self.core and self.rate is not None:
            raise UsageError("--rate is for a running system, not for a dump")
        if self.qemu and (self.workers or 1) > 1:
            raise UsageError("a QMP monitor serves one process: leave out --workers")
        if self.interval is not None and self.passes == 1:
            raise UsageError("--interval goes with --passes 2 or more")
        if self.procfs and self.symbols:
            raise UsageError("--procfs needs no symbols: leave out --symbols")
        if self.architecture and not self.core:
            raise UsageError("--architecture is for a dump")
        if self.core and self.passes > 1:
            raise UsageError("a dump does not change: --passes is for a running system")
        if self.without_contents and self.contents != CONTENTS[0]:
            raise UsageError(
                f"--contents {self.contents} and --without-contents exclude each other"
            )
        if self.without_contents and self.passes > 1:
            raise UsageError("--passes compares page contents, --without-contents reads none")
        if self.without_contents and (self.pieces or self.near):
            raise UsageError("--pieces, --near hash page contents, --without-contents reads none")

    @property
    def two_cores(self) -> bool:
        """Whether more than one is there and may be used, while a snapshot is written too."""
        from estimator.arrays import usable_cpus

        several = not (self.live or self.qemu) if self.workers is None else self.workers > 1
        return several and usable_cpus() > 1

    @property
    def wanted(self) -> Wanted:
        """The further hashes that are asked for."""
        from estimator.collect.further_hashes import Wanted

        return Wanted(self.pieces, self.near)

    def collect(
        self,
        progress: Progress,
        *,
        answers: int = 0,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Gathered | Snapshot:
        """Read the target; of several passes as a Snapshot, which they are compared as.

        ``answers``: bytes of a mapping that a prediction takes afterwards, asked for too; 0: none
        follows. ``meanwhile`` is done while others hash a dump, which can wait. Raises the errors
        of opening and reading it.
        """
        self.check()
        seed = self._seed()
        if self.core:
            from estimator.kernel.collect import gather
            from estimator.kernel.core import open_core

            with open_core(self.core, self.symbols, self.architecture) as target:
                return gather(
                    target,
                    without_contents=self.without_contents,
                    contents=self.contents,
                    seed=seed,
                    wanted=self.wanted,
                    progress=progress,
                    workers=self.workers,
                    max_memory_bytes=self.max_memory,
                    answers=answers,
                    meanwhile=meanwhile,
                )
        if self.max_memory is None:
            require_room_to_start()
        lower_priority()
        with own_limits(), ExitStack() as opened:
            look = self._running(Pace(self.rate), progress, seed, opened, answers)
            if self.passes == 1:
                return look()
            from estimator.collect.passes import collect_passes

            interval = INTERVAL_SECONDS if self.interval is None else self.interval
            return collect_passes(lambda: look().snapshot(), self.passes, interval)

    def _seed(self) -> int:
        """One seed for all passes; a new one unless it is given."""
        from estimator.collect.seed import random_seed, read_seed_file, seed_of

        if self.seed_file:
            return read_seed_file(self.seed_file)
        return seed_of(self.like) if self.like else random_seed()

    def _running(
        self, pace: Pace, progress: Progress, seed: int, opened: ExitStack, answers: int
    ) -> Callable[[], Gathered]:
        """Open the running system, closed with ``opened``; what takes a snapshot of it."""
        if self.procfs:
            from estimator.procfs.collect import gather_procfs

            return partial(
                gather_procfs,
                without_contents=self.without_contents,
                contents=self.contents,
                seed=seed,
                wanted=self.wanted,
                progress=progress,
                pace=pace,
                workers=self.workers,
                max_memory_bytes=self.max_memory,
                answers=answers,
            )
        _threads_of_drgn(self.workers or 1)
        from estimator.kernel.collect import gather
        from estimator.kernel.running import open_live, open_qemu

        target = open_qemu(self.qemu, self.symbols) if self.qemu else open_live(self.symbols)
        return partial(
            gather,
            opened.enter_context(target),
            without_contents=self.without_contents,
            contents=self.contents,
            seed=seed,
            wanted=self.wanted,
            progress=progress,
            pace=pace,
            workers=self.workers,
            max_memory_bytes=self.max_memory,
            answers=answers,
        )

    def findings(self) -> Findings:
        """What the target allows; raises UsageError unless exactly one is named."""
        self.check()
        without = self.without_contents
        if self.procfs:
            from estimator.procfs.check import check_procfs

            with own_limits():
                return check_procfs(without)
        if self.core:
            from estimator.kernel.check_core import check_core

            return check_core(self.core, self.symbols, self.architecture, without)
        _threads_of_drgn(self.workers or 1)
        from estimator.kernel.check_running import check_live, check_qemu

        if self.qemu:
            return check_qemu(self.qemu, self.symbols, without)
        return check_live(self.symbols, without)


def _threads_of_drgn(workers: int) -> None:
    """Before drgn is imported: how many read symbols; else as many as there are cores."""
    os.environ.setdefault("OMP_NUM_THREADS", str(workers))


INTERVAL_SECONDS = 10.0
TARGETS = ("live", "core", "qemu", "procfs")

_target_options = options(
    click.option("--live", is_flag=True, help="This machine's kernel, through /proc/kcore."),
    click.option(
        "--core",
        multiple=True,
        type=click.Path(path_type=Path, readable=False),
        metavar="VMCORE",
        help="A crash dump, also of LiME or AVML; repeated for the files of a split one "
        "(makedumpfile --split). Raw memory: FILE@ADDRESS[:OFFSET[+SIZE]] for each piece.",
    ),
    click.option(
        "--qemu",
        metavar="SOCKET",
        help="A guest of this machine: the socket of a QMP monitor that nobody else uses.",
    ),
    click.option(
        "--procfs",
        is_flag=True,
        help="This machine through /proc/PID/pagemap and mem: without symbols and /proc/kcore.",
    ),
    click.option(
        "--symbols",
        multiple=True,
        type=click.Path(path_type=Path, readable=False),
        metavar="VMLINUX",
        help="Its vmlinux with debug information, or btf for what the kernel carries itself; "
        "without this option, what is there.",
    ),
    click.option(
        "--architecture",
        type=click.Choice(["x86_64", "aarch64"]),
        help="Of a dump that does not say it.",
    ),
    click.option(
        "--without-contents",
        is_flag=True,
        help="Read no page of any process: who opted in, what a scan costs, and an upper bound of "
        "the saving. Also for dumps without user pages (makedumpfile -d 31).",
    ),
)
_reading_options = options(
    click.option(
        "--contents",
        type=click.Choice(CONTENTS),
        default=CONTENTS[0],
        help="Of which memory: anonymous (default), what ksmd looks at; all: also shared memory "
        "and hugetlb, for predict --as-if; all,file: also files. Found through page tables: what "
        "no process has touched is left out.",
    ),
    click.option(
        "--seed-file",
        type=click.Path(path_type=Path, readable=False),
        metavar="FILE",
        help="Take the seed of the hashes from a file (mode 0600); else each snapshot has its own.",
    ),
    click.option(
        "--like",
        type=click.Path(path_type=Path, readable=False),
        metavar="FIRST.ksm",
        help="Take the seed of that snapshot, to compare the two page by page.",
    ),
    click.option(
        "--rate",
        type=FiniteRange(min=0, min_open=True),
        metavar="MB/S",
        help="Read a running system's memory no faster than this.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Read and hash with so many processes: else 1 with --live and --qemu, 2 with "
        "--procfs, of a dump one for each core.",
    ),
    click.option(
        "--passes",
        type=click.IntRange(min=1),
        default=1,
        metavar="N",
        help="Look so many times, to tell what keeps changing: ksmd would leave it alone.",
    ),
    click.option(
        "--interval",
        type=FiniteRange(min=0),
        metavar="SECONDS",
        help="From the start of a pass to the next one (default 10).",
    ),
    click.option(
        "--pieces",
        is_flag=True,
        help="Hash the pieces of each page, too: what smaller pages would share (whatif, report).",
    ),
    click.option(
        "--near",
        is_flag=True,
        help="Hash each page without its ends and without addresses, too: which pages are nearly "
        "equal (whatif, report).",
    ),
    click.option(
        "--max-memory",
        type=Size(),
        metavar="SIZE",
        help="Refuse to start if more memory may be needed (8G, 512M), and end beyond it; else "
        "what this machine and the memory cgroup have room for.",
    ),
)


def source_options(command: Command) -> Command:
    """Give ``command`` the options of a target and of how it is read, both as ``source``."""
    return _with_source(command, options(_target_options, _reading_options))


def target_options(command: Command) -> Command:
    """Give ``command`` the options that name a target; it gets them as ``source``."""
    return _with_source(command, _target_options)


def _with_source(command: Command, decorate: Callable[[Any], Any]) -> Command:
    @functools.wraps(command)
    def with_source(**arguments: Any) -> Any:
        given = [field.name for field in fields(Source) if field.name in arguments]
        source = Source(**{name: arguments.pop(name) for name in given})
        return command(source=source, **arguments)

    decorated: Command = decorate(with_source)
    return decorated
