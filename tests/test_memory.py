"""Frames from an ELF dump in bulk, and runs of numbers."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from drgn import Architecture, Platform, Program
from hypothesis import example, given, settings
from hypothesis import strategies as st

from estimator.arrays import Bytes, Ints, Mask, Words
from estimator.collect.hashing import digest_of
from estimator.collect.page_room import PageRoom
from estimator.errors import TargetError
from estimator.kernel import memory
from estimator.kernel.dump import page_cache
from estimator.kernel.dump.file import inspect
from estimator.kernel.dump.kdump_headers import KdumpPages
from estimator.kernel.memory import Digest, Memory
from estimator.kernel.memory.elf import MappedElf
from estimator.kernel.memory.intervals import Intervals, between, met_first, runs
from estimator.kernel.memory.kdump import Kdump
from estimator.kernel.running import open_qemu
from estimator.kernel.target import Target
from estimator.snapshot.flags import Unknown
from tests.test_dumpfile import kdump

PAGE_SIZE = 4096
SKEW = 100  # the second segment does not begin on a page of the file
SEGMENTS = {10: 400, 1000: 600}  # first PFN: pages


@settings(deadline=None)
@example([2**64 - 1, 0], 1, 1)
@given(
    st.lists(st.integers(0, 300) | st.integers(2**64 - 300, 2**64 - 1)),
    st.integers(1, 40),
    st.integers(1, 9),
)
def test_runs_ascend_in_small_steps_and_are_not_too_long(
    numbers: list[int], span: int, step: int
) -> None:
    found = list(runs(np.array(numbers, np.uint64), span, step))
    assert [row for start, stop in found for row in range(start, stop)] == list(range(len(numbers)))
    for start, stop in found:
        assert all(0 < b - a <= step for a, b in pairwise(numbers[start:stop]))
        assert numbers[stop - 1] - numbers[start] < span
    for start, stop in found[:-1]:  # none ends without need
        near = 0 < numbers[stop] - numbers[stop - 1] <= step
        assert not near or numbers[stop] - numbers[start] >= span


@given(
    st.lists(st.integers(0, 40), unique=True).map(sorted),
    st.lists(st.integers(0, 40), unique=True).map(sorted),
)
def test_what_lies_in_one_but_not_in_the_other(outer: list[int], inner: list[int]) -> None:
    def intervals(bounds: list[int]) -> tuple[Intervals, set[int]]:
        pairs = list(zip(bounds[::2], bounds[1::2], strict=False))
        start, end = np.array(pairs, np.uint64).reshape(-1, 2).T
        return Intervals(start, end), {n for low, high in pairs for n in range(low, high)}

    (one, ones), (other, others) = intervals(outer), intervals(inner)
    found = [n for start, size in between(one, other) for n in range(start, start + size)]
    assert found == sorted(ones - others)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """An ELF dump with ``SEGMENTS``; each page has its PFN in it."""
    headers, data = b"", b""
    start = 64 + 56 * len(SEGMENTS)
    for number, (pfn, pages) in enumerate(SEGMENTS.items()):
        data += bytes(number * SKEW)
        place = (start + len(data), 0, pfn * PAGE_SIZE, pages * PAGE_SIZE, pages * PAGE_SIZE, 0)
        headers += struct.pack("<II6Q", 1, 0, *place)
        for n in range(pfn, pfn + pages):
            data += page(n)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    counts = (64, 56, len(SEGMENTS), 0, 0, 0)
    ehdr = ident + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, *counts)
    (tmp_path / "vmcore").write_bytes(ehdr + headers + data)
    return tmp_path / "vmcore"


def page(pfn: int) -> bytes:
    return struct.pack("<Q", pfn) * (PAGE_SIZE // 8)


def opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> MappedElf:
    direct_map = SimpleNamespace(value_=lambda: 0)
    monkeypatch.setattr(memory, "phys_to_virt", lambda prog, address: direct_map)
    monkeypatch.setattr(memory, "page_shift", lambda prog: 12)
    return MappedElf(Program(Platform(Architecture.X86_64)), inspect(path))


@pytest.mark.parametrize("read", [MappedElf.digests, Memory.digests], ids=["mapped", "by frames"])
@pytest.mark.parametrize("seed", range(5))
def test_digests_of_an_elf_dump(
    seed: int,
    read: Callable[[Memory, Words, Digest], tuple[Words, Bytes]],
    dump: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elf = opened(dump, monkeypatch)
    random = np.random.default_rng(seed)
    pfns = random.integers(0, 1700, 900).astype(np.uint64)
    if seed:
        pfns.sort()
    taken: list[bytes] = []

    def digest(contents: Iterable[Any]) -> Iterator[int]:
        for content in contents:
            taken.append(bytes(content))
            yield len(taken)

    found, unknown = read(elf, pfns, digest)
    there = [any(first <= n < first + SEGMENTS[first] for first in SEGMENTS) for n in pfns.tolist()]
    assert (unknown == np.where(there, Unknown.HASHED, Unknown.UNREADABLE)).all()
    assert taken == [page(n) for n in pfns[there].tolist()]
    assert found[there].tolist() == list(range(1, len(taken) + 1))
    assert not found[~np.array(there)].any()


@pytest.mark.parametrize("read", [MappedElf.batches, Memory.batches], ids=["mapped", "by frames"])
@pytest.mark.parametrize("seed", range(5))
def test_batches_of_an_elf_dump(
    seed: int,
    read: Callable[[Memory, Words, Bytes, PageRoom], Iterator[Ints]],
    dump: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elf = opened(dump, monkeypatch)
    random = np.random.default_rng(seed)
    pfns, most = random.integers(0, 1700, 900).astype(np.uint64), 1 + 16 * seed
    if seed:
        pfns.sort()
    unknown = np.full(len(pfns), 99, np.uint8)
    rows: list[int] = []
    room = PageRoom(most, PAGE_SIZE)
    for batch in read(elf, pfns, unknown, room):
        assert len(batch) <= most
        pages = [bytes(each) for each in room.whole[: len(batch)]]
        assert pages == [page(n) for n in pfns[batch].tolist()]
        rows += batch.tolist()
    assert (unknown == elf.frames(pfns)[1]).all()
    assert rows == np.flatnonzero(unknown == Unknown.HASHED).tolist()


def test_structs_of_an_elf_dump(dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elf = opened(dump, monkeypatch)
    members = {
        "near": (np.dtype(np.uint32), 8),
        "wide": (np.dtype((np.uint64, 3)), 16),
        "far": (np.dtype(np.uint16), 300),
    }
    dtype = np.dtype(
        {
            "names": list(members),
            "formats": [kind for kind, _ in members.values()],
            "offsets": [at for _, at in members.values()],
            "itemsize": 512,
        }
    )
    addresses = np.array([(10 << 12) + 3, (500 << 12), (1599 << 12) + 3585, 1100 << 12], np.uint64)
    found, ok = elf.structs(addresses, dtype)
    assert ok.tolist() == [True, False, False, True]
    for row, pfn, skew in ((0, 10, 3), (3, 1100, 0)):
        for name, (kind, at) in members.items():
            expected = np.ndarray(kind.shape, kind.base, page(pfn), at + skew)
            assert (found[name][row] == expected).all()
    assert not found["wide"][1].any()


@pytest.mark.parametrize("read", [MappedElf.words, Memory.words], ids=["mapped", "by frames"])
def test_words_of_an_elf_dump(
    read: Callable[[Memory, Words], tuple[Words, Mask]],
    dump: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elf = opened(dump, monkeypatch)
    places = [(11 << 12) + 8, 5 << 12, (1599 << 12) + 4088, 1 << 51, 11 << 12, (1001 << 12) + 16]
    words, ok = read(elf, np.array(places, np.uint64))
    assert ok.tolist() == [True, False, True, False, True, True]
    assert words.tolist() == [11, 0, 1599, 0, 11, 1001]


def test_no_words(dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elf = opened(dump, monkeypatch)
    assert [len(part) for part in Memory.words(elf, np.empty(0, np.uint64))] == [0, 0]


@given(st.lists(st.lists(st.integers(0, 20), max_size=12), max_size=6))
def test_what_is_met_first(batches: list[list[int]]) -> None:
    seen: set[int] = set()
    met: list[int] = []
    for batch in batches:
        new = met_first(seen, np.array(batch, np.uint64)).tolist()
        for value, is_new in zip(batch, new, strict=True):
            assert is_new == (value not in met)
            met.append(value)
    assert seen == set(met)


def test_a_dump_that_shrinks_while_it_is_read(dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elf = opened(dump, monkeypatch)
    os.truncate(dump, dump.stat().st_size - 50 * PAGE_SIZE)
    hashes, unknown = elf.digests(np.arange(1500, 1600, dtype=np.uint64), digest_of(0))
    assert (unknown == [Unknown.HASHED] * 50 + [Unknown.UNREADABLE] * 50).all()
    assert hashes[:50].all()
    assert not hashes[50:].any()
    codes = np.empty(100, np.uint8)
    batches = list(
        elf.batches(np.arange(1500, 1600, dtype=np.uint64), codes, PageRoom(64, PAGE_SIZE))
    )
    assert np.concatenate(batches).tolist() == list(range(50))
    assert (codes == unknown).all()


def open_files() -> list[str]:
    """What this process has open or mapped."""
    links = [entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    maps = Path("/proc/self/maps").read_text().splitlines()
    return sorted(str(link.readlink()) for link in links) + [m for m in maps if "vmcore" in m]


def test_a_target_closes_what_it_opened(dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()
    elf = opened(dump, monkeypatch)
    assert len(open_files()) > len(before)
    with Target(elf.prog, elf, "core", str(dump), "elf") as target:
        assert target.memory.digests(np.array([10], np.uint64), digest_of(0))[0].all()
    assert not [name for name in open_files() if "vmcore" in name]
    assert open_files() == before
    with pytest.raises(AttributeError):  # a bug of ours, not frames that can't be read
        elf.frames(np.array([10], np.uint64))
    elf.close()


def test_a_kdump_is_unmapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vmcore").write_bytes(kdump())
    before = open_files()
    held = opened_kdump(tmp_path / "vmcore", monkeypatch)
    with Target(held.prog, held, "core", "vmcore", "kdump"):
        assert len(open_files()) > len(before)
    assert open_files() == before


def opened_kdump(path: Path, monkeypatch: pytest.MonkeyPatch) -> Kdump:
    found = inspect(path)
    assert found.kdump is not None
    direct_map = SimpleNamespace(value_=lambda: 0)
    monkeypatch.setattr(memory, "phys_to_virt", lambda prog, address: direct_map)
    monkeypatch.setattr(memory, "page_shift", lambda prog: 12)
    prog = Program(Platform(Architecture.X86_64))
    prog.add_memory_segment(0, 1 << 40, lambda _a, count, _o, _p: bytes(count), True)
    return Kdump(prog, [KdumpPages(found.path, found.kdump)])


@pytest.mark.parametrize(
    ("available", "cached", "leave"),
    [(None, 0.0, False), (0, 0.0, True), (1 << 40, 0.0, False), (0, 1.0, False)],
    ids=["unknown", "little", "plenty", "cached before"],
)
@pytest.mark.parametrize("kind", ["elf", "kdump"])
def test_the_contents_of_a_large_dump_leave_the_page_cache(
    kind: str,
    available: int | None,
    cached: float,
    leave: bool,
    dump: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_back: set[int] = set()

    def advise(descriptor: int, offset: int, size: int, advice: int) -> None:
        assert (os.fstat(descriptor).st_ino, advice) == (path.stat().st_ino, 4)
        given_back.update(range(offset, offset + size))

    monkeypatch.setattr(page_cache, "meminfo_bytes", lambda name: available)
    monkeypatch.setattr(page_cache, "cached_share", lambda descriptor, size: cached)
    monkeypatch.setattr(os, "posix_fadvise", advise)
    if kind == "elf":
        path = dump
        read: Memory = opened(dump, monkeypatch)
        pfns = np.arange(10, 50, dtype=np.uint64)
        loads = inspect(dump).loads
        first = int(loads["offset"][0])
        contents = range(first, first + 40 * PAGE_SIZE)
    else:
        path = tmp_path / "kdump"
        path.write_bytes(kdump())
        read = opened_kdump(path, monkeypatch)
        pfns = np.arange(100, 120, dtype=np.uint64)  # every other one is in the file
        contents = range(path.stat().st_size - 400 * 100, path.stat().st_size - 390 * 100)
    with Target(read.prog, read, "core", str(path), kind):
        read.digests(pfns, lambda pages: [0 for _ in pages])
        read.digests(pfns[:0], lambda pages: [0 for _ in pages])
    if leave:  # whole folios
        assert set(contents) <= given_back
        assert min(given_back) % (2 << 20) == 0 == (max(given_back) + 1) % (2 << 20)
    else:
        assert not given_back


def test_what_was_read_is_given_back_in_whole_folios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By 1 MiB, as contents are read, with a short gap, and with a long one."""
    mib, found = 1 << 20, list[tuple[int, int]]()
    monkeypatch.setattr(
        os, "posix_fadvise", lambda _file, start, size, _advice: found.append((start, size))
    )
    monkeypatch.setattr(page_cache, "_brings_much", lambda descriptor: True)
    cache = page_cache.PageCache(0)
    for number in (*range(1, 20), *range(21, 40), *range(100, 103)):
        cache.give_back(number * mib, (number + 1) * mib)
    cache.give_back_rest()
    assert all(start % (2 * mib) == 0 == size % (2 * mib) for start, size in found)
    given = {
        number for start, size in found for number in range(start // mib, (start + size) // mib)
    }
    assert given == {*range(40), *range(100, 104)}
    assert len(found) == 4


def test_how_much_of_a_file_is_cached(tmp_path: Path) -> None:
    size = 80 << 20
    with (tmp_path / "file").open("w+b") as file:
        file.write(bytes(size))
        file.flush()
        os.fsync(file.fileno())
        if page_cache.cached_share(file.fileno(), size) == 0:
            pytest.skip("this kernel has no cachestat(2), or its file system no page cache")
        assert page_cache.cached_share(file.fileno(), size) > 0.9  # others may need the memory
        os.posix_fadvise(file.fileno(), size // 2, size // 2, os.POSIX_FADV_DONTNEED)
        assert 0.4 < page_cache.cached_share(file.fileno(), size) < 0.6


@pytest.mark.parametrize("wrong", [b"garbage\n", b'{"error": {"class": "X", "desc": "no"}}\r\n'])
def test_a_monitor_that_fails_is_closed_once(wrong: bytes, tmp_path: Path) -> None:
    """drgn closes the descriptor if it can't use it: whoever has that number then keeps it."""
    greeting = {"micro": 0, "minor": 0, "major": 9}
    version = json.dumps({"QMP": {"version": {"qemu": greeting, "package": ""}}}).encode()
    before = open_files()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "monitor"))
        server.listen()

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(version + b"\r\n" + wrong)
                client.shutdown(socket.SHUT_WR)
                while client.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(TargetError, match="can't be read"):
            open_qemu(str(tmp_path / "monitor"))
        thread.join()
    assert open_files() == before
