"""Kernel memory in which words were replaced: read in bounded time and memory, into sound rows.

That is what a reader of a running system meets when structures are freed under it, and what is in
a damaged dump.
"""

from __future__ import annotations

import mmap
import random
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from drgn import Program

from estimator.collect.mappings import distinct_of
from estimator.errors import EstimatorError
from estimator.kernel.address_spaces import AddressSpaces
from estimator.kernel.collect import collect
from estimator.kernel.dump.file import inspect
from estimator.kernel.memory.running import RunningMemory
from estimator.kernel.page_array import PageArray
from estimator.kernel.processes import read_processes
from estimator.kernel.symbols import load_symbols
from estimator.kernel.target import Target
from estimator.kernel.vmas import read_vmas
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot, write_snapshot
from tests.lab.conftest import again, lab_kernel
from tests.lab.kernels import IN_FULL
from tests.lab.running import running
from tests.lab.test_qemu import MIXED

pytestmark = pytest.mark.lab

PAGE = 4096
TRIALS = 40
SECONDS = 20
MEMORY_BYTES = 2 << 30


class Image:
    """A dump whose words can be replaced; drgn reads it through us."""

    def __init__(self, path: Path, vmlinux: Path) -> None:
        loads = inspect(path).loads
        with path.open("rb") as file:
            private = mmap.mmap(
                file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
            )
        self.bytes = np.frombuffer(private, np.uint8)
        self._loads = [(int(x["paddr"]), int(x["offset"]), int(x["filesz"])) for x in loads]
        self.pages_read: set[int] = set()
        prog = Program()
        prog.set_core_dump(path)
        for paddr, _, size in self._loads:
            prog.add_memory_segment(paddr, size, self._read, physical=True)
        load_symbols(prog, [vmlinux])
        self.target = Target(prog, RunningMemory(prog), "qemu", str(path), "elf")

    def offset(self, physical: int) -> int:
        """Where a physical address is in the file."""
        return next(o + physical - p for p, o, n in self._loads if p <= physical < p + n)

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        self.pages_read |= set(range(address // PAGE, (address + count - 1) // PAGE + 1))
        start = self.offset(address)
        return self.bytes[start : start + count].tobytes()


@pytest.fixture(scope="module", params=[IN_FULL[0], *map(again, IN_FULL[1:])])
def image(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Image]:
    directory = tmp_path_factory.mktemp("damage")
    kernel = lab_kernel(request.param)
    with running(MIXED, kernel, directory) as guest:
        guest.session.scan(2)
        guest.guest.dump(directory / "vmcore")
    yield Image(directory / "vmcore", kernel.vmlinux)
    (directory / "vmcore").unlink()


def test_damaged_memory_ends_in_a_sound_snapshot_or_in_an_error_of_ours(
    image: Image, tmp_path: Path
) -> None:
    whole = collect(image.target)
    pages_of = pages_by_reader(image, whole)
    answered = dict.fromkeys(pages_of, 0)
    for trial in range(TRIALS):
        reader = list(pages_of)[trial % len(pages_of)]
        chance = random.Random(trial)
        words = damage(image, pages_of[reader], chance, 1 << chance.randrange(3, 15))
        try:
            with bounded():
                write_snapshot(collect(image.target), tmp_path / f"{trial}.ksm")
        except EstimatorError:
            continue
        finally:
            for offset, word in reversed(words):
                image.bytes[offset : offset + 8] = word
        check_rows(open_snapshot(tmp_path / f"{trial}.ksm"))
        answered[reader] += 1
    assert all(answered.values()), answered
    assert sum(answered.values()) > TRIALS // 4
    again = collect(image.target)
    assert again.mappings.equals(whole.mappings)


def pages_by_reader(image: Image, whole: Snapshot) -> dict[str, npt.NDArray[Any]]:
    """The pages that each reader of kernel memory looks into, without those of processes."""
    prog, memory = image.target.prog, image.target.memory
    pages = {}

    def looked_into(reader: str) -> None:
        found = image.pages_read - set(whole.frames["pfn"].tolist())
        assert len(found) > 5, reader
        pages[reader] = np.array(sorted(found))
        image.pages_read.clear()

    image.pages_read.clear()
    mms = read_processes(prog, memory)
    looked_into("task list")
    vmas = read_vmas(prog, memory, mms)
    looked_into("VMA tree")
    mapped = AddressSpaces(prog, memory, mms, vmas).walk(lambda _: None)
    looked_into("page tables")
    PageArray(prog, memory).read(distinct_of(mapped.pfn)[:])
    looked_into("struct page")
    return pages


def damage(
    image: Image, pages: npt.NDArray[Any], chance: random.Random, count: int
) -> list[tuple[int, npt.NDArray[np.uint8]]]:
    """Replace ``count`` words of ``pages``; what stood there, by offset in the file."""
    words = []
    for _ in range(count):
        offset = image.offset(int(chance.choice(pages)) * PAGE) + 8 * chance.randrange(PAGE // 8)
        other = image.offset(int(chance.choice(pages)) * PAGE) + 8 * chance.randrange(PAGE // 8)
        word = image.bytes[offset : offset + 8].copy()
        words.append((offset, word))
        image.bytes[offset : offset + 8] = chance.choice(
            (
                np.frombuffer(chance.randbytes(8), np.uint8),
                image.bytes[other : other + 8].copy(),
                np.zeros(8, np.uint8),
                word ^ np.frombuffer((1 << chance.randrange(64)).to_bytes(8, "little"), np.uint8),
            )
        )
    return words


class TooSlow(BaseException):
    """No Exception: nothing on the way takes it for a failed read."""


@contextmanager
def bounded() -> Iterator[None]:
    """Fail what takes longer than SECONDS or needs more than MEMORY_BYTES beyond what is in use."""

    def too_slow(number: int, frame: Any) -> None:
        raise TooSlow(f"not done after {SECONDS} s")

    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check_rows(snapshot: Snapshot) -> None:
    """The rows refer to each other and stand in the order that the snapshot promises."""
    vmas, mappings, frames = snapshot.vmas, snapshot.mappings, snapshot.frames
    assert (vmas["mm_id"] < len(snapshot.processes)).all()
    assert (vmas["start"] < vmas["end"]).all()
    key = vmas["mm_id"].to_numpy(np.uint64) << np.uint64(57)
    assert (np.diff(key + vmas["start"].to_numpy()).view(np.int64) > 0).all()
    assert (mappings["frame_id"] < len(frames)).all()
    vma = vmas.iloc[mappings["vma_id"]]
    pages = (vma["end"].to_numpy() - vma["start"].to_numpy()) >> np.uint64(12)
    assert (mappings["page_index"].to_numpy() < pages).all()
    of_vma, index = mappings["vma_id"].to_numpy(), mappings["page_index"].to_numpy()
    assert (of_vma[1:] >= of_vma[:-1]).all()
    assert ((index[1:] > index[:-1]) | (of_vma[1:] != of_vma[:-1])).all()
    assert frames["pfn"].is_monotonic_increasing
    assert frames["pfn"].is_unique
    assert (frames["hash"].isna() == (frames["unknown"] != 0)).all()
