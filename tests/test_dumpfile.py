"""Files that are no dump, or not all of one: said in one line, with the exit code."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from estimator.errors import EstimatorError, TargetError
from estimator.kernel.dump.file import DumpFile, inspect
from estimator.kernel.dump.kdump_headers import KdumpHeader, KdumpPages
from estimator.snapshot.flags import Unknown

BLOCK = 4096
PFNS = 1000
DUMPED = range(100, 900, 2)  # of memory in 50 to 950


def kdump(
    level: int = 1,
    *,
    split: tuple[int, int] | None = None,
    notes: bytes = b"CRASHTIME=1",
    machine: bytes = b"x86_64",
    block: int = BLOCK,
) -> bytes:
    """A kdump file with the pages ``DUMPED``, each ``block`` bytes, 100 of zlib in the file.

    ``split``: only the pages from one PFN until before another, as in a file of a split dump.
    """
    start_pfn, end_pfn = split or (0, 0)
    own = [pfn for pfn in DUMPED if not split or start_pfn <= pfn < end_pfn]
    valid, dumped = np.zeros((2, 8 * block), np.uint8)
    valid[50:950] = 1
    dumped[list(DUMPED)] = 1
    bitmaps = [np.packbits(bits, bitorder="little").tobytes() for bits in (valid, dumped)]
    header = struct.pack("<8si", b"KDUMP   ", 6) + bytes(4 * 65) + machine.ljust(65, b"\0")
    header = header.ljust(424, b"\0") + struct.pack("<IiiII", 1, block, 1, 2, 0)
    sub = struct.pack("<Qii32xQQ16x", 0, level, bool(split), block + 104, len(notes))
    sub += struct.pack("<QQQ", start_pfn, end_pfn, PFNS) + notes
    table = 4 * block
    data = table + 24 * len(DUMPED)
    descriptors = b"".join(
        struct.pack("<QIIQ", data + 100 * number, 100, 1, 0) for number in range(len(own))
    ).ljust(data - table, b"\0")
    blocks = b"".join(part.ljust(block, b"\0") for part in (header, sub, *bitmaps))
    page = zlib.compress(bytes(block)).ljust(100, b"\0")
    return blocks + descriptors + page * len(own)


def written(path: Path, content: bytes) -> DumpFile:
    path.write_bytes(content)
    return inspect(path)


def unknown(dump: DumpFile, *pfns: int) -> list[int]:
    assert dump.kdump is not None
    return KdumpPages(dump.path, dump.kdump).unknown(np.array(pfns, np.uint64)).tolist()


def test_kdump_knows_its_pages(tmp_path: Path) -> None:
    dump = written(tmp_path / "vmcore", kdump())
    assert dump.missing_bytes == 0
    assert unknown(dump, 100, 101, 898, 950, 5_000_000) == [
        *(Unknown.HASHED, Unknown.EXCLUDED, Unknown.HASHED),
        *(Unknown.UNREADABLE, Unknown.UNREADABLE),
    ]


def test_kdump_that_is_cut_off(tmp_path: Path) -> None:
    whole = kdump()
    dump = written(tmp_path / "vmcore", whole[:-150])
    assert dump.missing_bytes == 150
    assert "cut off" in dump.cut
    assert unknown(dump, 100, 894, 896, 898) == [0, 0, Unknown.TRUNCATED, Unknown.TRUNCATED]


def test_damaged_page_descriptor(tmp_path: Path) -> None:
    content = bytearray(kdump())
    struct.pack_into("<I", content, 4 * BLOCK + 8, 1 << 20)  # the size of the first page
    assert unknown(written(tmp_path / "vmcore", bytes(content)), 100, 102) == [
        *(Unknown.UNREADABLE, Unknown.HASHED)
    ]


def test_pages_by_their_size_in_the_file(tmp_path: Path) -> None:
    content = bytearray(kdump())
    for number, size in ((0, 5000), (1, 50), (7, 51)):
        struct.pack_into("<I", content, 4 * BLOCK + 24 * number + 8, size)
    dump = written(tmp_path / "vmcore", bytes(content))
    assert dump.kdump is not None
    pages = KdumpPages(dump.path, dump.kdump)
    assert list(pages.pfns_of_size(51, 100)) == [DUMPED[0] + 2 * n for n in range(2, 400)]
    assert list(pages.pfns_of_size(50, 99)) == [DUMPED[1], DUMPED[7]]
    cut = written(tmp_path / "cut", bytes(content[: 4 * BLOCK + 24 * 10 + 1]))
    assert cut.kdump is not None
    found = list(KdumpPages(cut.path, cut.kdump).pfns_of_size(1, 100))
    assert found == [DUMPED[n] for n in range(1, 10)]


def pages_of(path: Path, bitmap: np.ndarray[Any, Any], sizes: Any) -> KdumpPages:
    """A file with the pages that ``bitmap`` has (0 or 1 each); ``sizes``: in their descriptors."""
    packed = np.packbits(bitmap, bitorder="little").tobytes()
    packed = packed.ljust(-(-len(packed) // BLOCK) * BLOCK, b"\0")
    frames = len(bitmap)
    header = KdumpHeader(
        1, False, 0, frames, frames, b"", "x86_64", "none", False, BLOCK, len(packed), len(packed)
    )
    dtype = [("offset", "<u8"), ("size", "<u4"), ("rest", "u1", 12)]
    descriptors = np.zeros(int(bitmap.sum()), dtype)
    descriptors["size"] = sizes
    path.write_bytes(packed * 2 + descriptors.tobytes())
    return KdumpPages(path, header)


@pytest.mark.parametrize("frames", [8192 * 32, 8192 * 32 + 1, 700_000])
def test_pages_by_their_size_across_blocks(frames: int, tmp_path: Path) -> None:
    numbers = np.random.default_rng(frames)
    bitmap = numbers.integers(0, 2, frames).astype(np.uint8)
    sizes = numbers.integers(0, 4096, int(bitmap.sum()))
    expected = np.flatnonzero(bitmap)[(sizes >= 512) & (sizes <= 3584)]
    pages = pages_of(tmp_path / "vmcore", bitmap, sizes)
    assert list(pages.pfns_of_size(512, 3584)) == expected.tolist()


@pytest.mark.parametrize("level", [0, 1, 23, 31])
def test_the_level_is_in_the_header(level: int, tmp_path: Path) -> None:
    dump = written(tmp_path / "vmcore", kdump(level))
    assert dump.kdump is not None
    assert dump.kdump.level == level


def flattened(*records: tuple[int, bytes], end: bool = True) -> bytes:
    body = b"".join(struct.pack(">qq", at, len(data)) + data for at, data in records)
    return b"makedumpfile".ljust(BLOCK, b"\0") + body + (b"\xff" * 16 if end else b"")


def test_flattened_kdump(tmp_path: Path) -> None:
    content = kdump(23)
    parts = (0, content[:464]), (4 * BLOCK, content[4 * BLOCK :]), (BLOCK, content[BLOCK:5000])
    dump = written(tmp_path / "vmcore", flattened(*parts))
    assert (dump.format, dump.cut) == ("flattened", "")
    assert dump.kdump is not None
    assert (dump.kdump.level, dump.kdump.machine) == (23, "x86_64")
    assert "end mark" in written(tmp_path / "cut", flattened(*parts, end=False)).cut


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"#!/bin/sh\n", "is no crash dump"),
        (b"my QEVM and hsqs\n", "is no crash dump"),
        (gzip.compress(kdump()), r"is packed as a whole \(gzip\); try: gunzip .*vmcore"),
        (lzma.compress(kdump()), "unxz"),
        (bz2.compress(kdump()), "bunzip2"),
        (pa.compress(kdump(), "zstd", asbytes=True), "unzstd"),
        (b"\x7fELF\x02\x01", "is cut off in its first 6 bytes"),
        (b"\x7fELF\x02\x01" + bytes(10) + struct.pack("<HH", 2, 62) + bytes(44), "no core dump"),
        (kdump()[:300], "is cut off in its header"),
        (kdump()[:5000].replace(struct.pack("<I", BLOCK), struct.pack("<I", 77)), "damaged"),
        (flattened((0, b"\x7fELF" + bytes(600))), "makedumpfile -R"),
    ],
)
def test_no_dump(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=message):
        written(tmp_path / "vmcore", content)


@pytest.mark.parametrize("seed", range(300))
def test_random_headers(seed: int, tmp_path: Path) -> None:
    numbers = np.random.default_rng(seed)
    content = np.frombuffer(kdump(), np.uint8).copy()
    at = numbers.integers(8, (2 if seed % 2 else 5) * BLOCK, numbers.integers(1, 30))
    content[at] = numbers.integers(0, 256, len(at))
    try:
        dump = written(tmp_path / "vmcore", content.tobytes())
        pfns = numbers.integers(0, 1 << 40, 50, dtype=np.uint64)
        assert len(unknown(dump, *pfns.tolist(), *DUMPED)) == 50 + len(DUMPED)
    except EstimatorError:
        pass


def test_command_line_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "vmcore").write_bytes(kdump(split=(0, 500)))
    command = [sys.executable, "-m", "estimator", "run", "--core", str(tmp_path / "vmcore")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.count("\n") == 1
    assert "give all parts: --core PART1" in done.stderr


def rank_by_hand(bitmap: np.ndarray[Any, Any], pfn: int) -> int:
    return int(bitmap[:pfn].sum())


@pytest.mark.parametrize("frames", [1, 63, 64, 8191, 8192, 8193, 16_384, 3_000_001])
def test_descriptors_are_found_by_counting_bits(frames: int, tmp_path: Path) -> None:
    """Also across the blocks that are counted, and the pieces of the file that are read at once."""
    numbers = np.random.default_rng(frames)
    bitmap = numbers.integers(0, 2, frames).astype(np.uint8)
    if frames > 3 * 8192:
        bitmap[8192 : 2 * 8192] = 0
    pages = pages_of(tmp_path / "vmcore", bitmap, 0)
    wanted = np.unique([0, frames - 1, *numbers.integers(0, frames, 300)])
    assert [pages._rank(pfn) for pfn in [*wanted.tolist(), frames]] == [
        rank_by_hand(bitmap, pfn) for pfn in [*wanted.tolist(), frames]
    ]
    words = wanted >> 6
    assert pages._ranks(words).tolist() == [rank_by_hand(bitmap, 64 * n) for n in words.tolist()]


def sparse_kdump(path: Path, frames: int) -> None:
    """A kdump file whose headers say ``frames``; its bitmaps are holes."""
    bitmap_blocks = 2 * -(-frames // (8 * BLOCK))
    content = bytearray(kdump()[: 2 * BLOCK])
    struct.pack_into("<II", content, 424 + 12, bitmap_blocks, 0)
    struct.pack_into("<Q", content, BLOCK + 96, frames)
    with path.open("wb") as file:
        file.write(content)
        file.truncate((2 + bitmap_blocks + 16) * BLOCK)


def sparse_elf(path: Path, headers: int) -> None:
    """An ELF core whose section header says ``headers`` program headers; they are a hole."""
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    counts = (64, 56, 0xFFFF, 64, 1, 0)
    ehdr = ident + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, BLOCK, 64, 0, *counts)
    with path.open("wb") as file:
        file.write(ehdr)
        file.seek(64 + 44)
        file.write(struct.pack("<I", headers))
        file.truncate(BLOCK + 56 * headers)


MEASURED = r"""
import re, sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from estimator.errors import EstimatorError
from estimator.kernel.dump.file import inspect
try:
    print(inspect(Path(sys.argv[1])).cut or "whole")
except EstimatorError as error:
    print(error.exit_code, error)
own = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())  # not the parent's
print(own[1])
"""


@pytest.mark.parametrize(
    ("make", "size", "message"),
    [
        (sparse_kdump, 1 << 28, "whole"),  # 1 TiB of memory
        (sparse_kdump, 1 << 34, "3 .* is damaged: .* frames of memory, its bitmap 0"),
        (sparse_kdump, 1 << 36, "3 .* is damaged: .* frames of memory, its bitmap 0"),
        (sparse_kdump, 1 << 40, "3 .* is damaged: .* frames"),
        (sparse_elf, 60_000_000, "3 .* is damaged: 60,000,000 program headers"),
        (sparse_elf, 1_000_000, "whole"),
    ],
)
def test_files_made_up_to_be_large_are_read_in_little_memory(
    make: Callable[[Path, int], None], size: int, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "vmcore"
    make(path, size)
    command = [sys.executable, "-c", MEASURED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    said, peak_kib = done.stdout.splitlines()
    assert re.match(message, said), said
    assert int(peak_kib) < 300 << 10


@pytest.mark.parametrize(("sections", "behind"), [(64, 100), (64, 1 << 20), (1 << 62, 0)])
def test_a_dump_by_xen_is_named(sections: int, behind: int, tmp_path: Path) -> None:
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 0, sections, 0, 64, 56, 0, 64, 5, 4)
    names = b"\0.note.Xen\0.xen_prstatus\0.xen_pages\0.xen_p2m\0"
    with pytest.raises(TargetError, match="a domain by Xen"):
        written(tmp_path / "core", ident + head + bytes(behind) + names)
    assert written(tmp_path / "empty", ident + head).loads.size == 0


def test_headers_beyond_the_end_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    sparse_elf(path, 900_000)
    content = bytearray(path.read_bytes()[: 2 * BLOCK])
    with pytest.raises(TargetError, match="cut off in its program headers"):
        written(path, bytes(content))
    struct.pack_into("<Q", content, 40, 2**64 - 1)
    with pytest.raises(TargetError, match="cut off before its section header"):
        written(path, bytes(content))


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "pipe", "is no regular file"),
        (Path("/dev/zero"), "is no regular file"),
        (tmp_path, "is a directory"),
    ):
        command = [sys.executable, "-m", "estimator", "check", "--core", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 3
        assert message in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("head", "what", "command"),
    [
        (b"LibvirtQemudSave", "virsh save", "virsh restore --paused '{}'"),
        (b"LibvirtQemudPart", "cut off", "virsh dump --memory-only"),
        (b"QEVM\0\0\0\3", "migration stream", "-incoming \"exec:cat '{}'\""),
        (struct.pack("<I", 0xBED0BED0), "VMware", "vmss2core -N6 '{}'"),
        (struct.pack("<I", 0xBED2BED2), "VMware", "vmss2core -N6 '{}'"),
        (struct.pack("<I", 0xBED3BED3), "VMware", "vmss2core -N6 '{}'"),
        (struct.pack("<I", 0xBAD1BAD1), "VMware", "vmss2core -N6 '{}'"),
        (struct.pack("<II", 0x75646173, 0x0000706D), "sadump", "makedumpfile -l -d 23"),
        (b"ProblemType: KernelCrash\n", "apport", "apport-unpack '{}'"),
        (b"070701", "initramfs", "vmcore"),
        (struct.pack("<I", 0x73717368), "squashfs", "vmcore"),
        (b"PAGEDU64", "Windows", "vmcore"),
        (b"!<arch>\ndebian-binary", "package", "vmcore"),
        (struct.pack("<I", 0x184D2204), "(lz4)", "unlz4 '{}'"),
        (struct.pack("<I", 0x184C2102), "(lz4)", "unlz4 '{}'"),
    ],
)
def test_what_else_it_is(head: bytes, what: str, command: str, tmp_path: Path) -> None:
    path = tmp_path / "my dump"
    path.write_bytes(head + bytes(1000))
    with pytest.raises(TargetError) as raised:
        inspect(path)
    assert what in raised.value.message
    assert command.format(path) in str(raised.value.hint)
