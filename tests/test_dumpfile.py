"""Files that are no dump, or not all of one: said in one line, with the exit code."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from estimator.errors import CannotAnswerError, EstimatorError, TargetError
from estimator.kernel.core import refuse_incomplete
from estimator.kernel.dump.file import DumpFile, inspect
from estimator.kernel.dump.kdump_headers import KdumpPages
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
) -> bytes:
    """A kdump file with the pages ``DUMPED``, each 100 bytes of zlib in the file.

    ``split``: only the pages from one PFN until before another, as in a file of a split dump.
    """
    start_pfn, end_pfn = split or (0, 0)
    own = [pfn for pfn in DUMPED if not split or start_pfn <= pfn < end_pfn]
    valid, dumped = np.zeros((2, 8 * BLOCK), np.uint8)
    valid[50:950] = 1
    dumped[list(DUMPED)] = 1
    bitmaps = [np.packbits(bits, bitorder="little").tobytes() for bits in (valid, dumped)]
    header = struct.pack("<8si", b"KDUMP   ", 6) + bytes(4 * 65) + machine.ljust(65, b"\0")
    header = header.ljust(424, b"\0") + struct.pack("<IiiII", 1, BLOCK, 1, 2, 0)
    sub = struct.pack("<Qii32xQQ16x", 0, level, bool(split), BLOCK + 104, len(notes))
    sub += struct.pack("<QQQ", start_pfn, end_pfn, PFNS) + notes
    table = 4 * BLOCK
    data = table + 24 * len(DUMPED)
    descriptors = b"".join(
        struct.pack("<QIIQ", data + 100 * number, 100, 1, 0) for number in range(len(own))
    ).ljust(data - table, b"\0")
    blocks = b"".join(part.ljust(BLOCK, b"\0") for part in (header, sub, *bitmaps))
    page = zlib.compress(bytes(BLOCK)).ljust(100, b"\0")
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


@pytest.mark.parametrize("level", [0, 1, 2, 4, 16, 17, 23])
def test_levels_with_user_pages(level: int, tmp_path: Path) -> None:
    dump = written(tmp_path / "vmcore", kdump(level))
    assert dump.kdump is not None
    assert dump.kdump.level == level
    refuse_incomplete(dump)


@pytest.mark.parametrize("level", [8, 31])
def test_levels_without(level: int, tmp_path: Path) -> None:
    with pytest.raises(CannotAnswerError, match=f"-d {level}; make one with: .* -d 23"):
        refuse_incomplete(written(tmp_path / "vmcore", kdump(level)))


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
        (gzip.compress(kdump()), "is packed as a whole; unpack it: gunzip .*vmcore"),
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
    (tmp_path / "vmcore").write_bytes(kdump(31))
    command = [sys.executable, "-m", "estimator", "run", "--core", str(tmp_path / "vmcore")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.count("\n") == 1
    assert "make one with: makedumpfile" in done.stderr
