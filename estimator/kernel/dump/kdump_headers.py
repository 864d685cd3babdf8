"""makedumpfile's kdump format: its headers, and which page of memory lies where in the file.

Sources: diskdump_mod.h and IMPLEMENTATION of makedumpfile; dump.h of QEMU, which writes it too.
Pages are decompressed by libkdumpfile, through drgn; here it is said beforehand what can be read.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from estimator.arrays import Words
from estimator.errors import TargetError
from estimator.kernel.dump.machine import refuse_machine
from estimator.snapshot.flags import Unknown
from estimator.snapshot.format import PAGE_SIZES

SIGNATURE = b"KDUMP   "
FLAT_SIGNATURE = b"makedumpfile"

_HEADER = np.dtype(
    [("signature", "S8"), ("version", "<i4"), ("uts", "S65", 6), ("_pad", "V6")]
    + [("timestamp", "<u8", 2), ("status", "<u4"), ("block_size", "<i4")]
    + [("sub_hdr_size", "<i4"), ("bitmap_blocks", "<u4"), ("max_mapnr", "<u4")]
)
_SUB_HEADER = np.dtype(
    [("phys_base", "<u8"), ("dump_level", "<i4"), ("split", "<i4")]
    + [("start_pfn", "<u8"), ("end_pfn", "<u8"), ("offset_vmcoreinfo", "<u8")]
    + [("size_vmcoreinfo", "<u8"), ("note", "<u8", 4), ("start_pfn_64", "<u8")]
    + [("end_pfn_64", "<u8"), ("max_mapnr_64", "<u8")]
)
_PAGE_DESC = np.dtype([("offset", "<u8"), ("size", "<u4"), ("flags", "<u4"), ("page_flags", "<u8")])
_FLAT_HEADER_BYTES = 4 << 10  # MDF_HEADER_SIZE
_FLAT_END = b"\xff" * 16  # a record with offset and size -1
_MOST_NOTES_BYTES = 1 << 20
_HEADER_RECORDS = 16  # of a flattened file: the headers are the first ones written

_STATUS_INCOMPLETE = 0x8  # DUMP_DH_COMPRESSED_INCOMPLETE
_COMPRESSIONS = {0x1: "zlib", 0x2: "lzo", 0x4: "snappy", 0x20: "zstd"}
_ALL_COMPRESSIONS = np.uint32(0x27)
_OF_QEMU = "Unknown"  # what it writes of some architectures, arm64 among them
_FIRST_BYTES = 3 * max(PAGE_SIZES)  # header, sub-header and some more, whatever the page size
_MOST_FRAMES = 1 << 36  # 256 TiB, four times what a kernel with 4-level page tables can have
_USUAL_FRAMES = 1 << 28  # 1 TiB; beyond, libkdumpfile needs much memory for the bitmap
_MOST_SPREAD = 1024  # PFNs for each frame that there is
_BLOCK_WORDS = 128  # of the bitmap, whose bits are counted together
_BLOCK_BYTES = _BLOCK_WORDS * 8
_COUNTED_BYTES = 1 << 20  # read at once


@dataclass(frozen=True)
class KdumpHeader:
    """What the two headers of a kdump file say.

    ``level``: makedumpfile's dump level, what it was told to leave out. ``split``: one file of a
    set, with the PFNs from ``start_pfn`` until before ``end_pfn``; otherwise these are all, until
    before ``max_mapnr``. ``moment``: bytes that all files of one split dump have in common, and no
    other dump. ``machine``: as in uname -m, "" if not said. ``compression``: "zlib", "lzo",
    "snappy", "zstd" or "none". ``incomplete``: makedumpfile itself says that it could not write
    all, most likely for lack of space. ``block_bytes``: the page size. ``bitmap_offset`` (bytes)
    and ``bitmap_bytes``: of the second bitmap; the page descriptors begin behind it.
    """

    level: int
    split: bool
    start_pfn: int
    end_pfn: int
    max_mapnr: int
    moment: bytes
    machine: str
    compression: str
    incomplete: bool
    block_bytes: int
    bitmap_offset: int
    bitmap_bytes: int


def read_header(path: Path, file: BinaryIO, *, flattened: bool) -> KdumpHeader:
    """The headers of the kdump file ``path``. Raises TargetError if they make no sense."""
    start = _flat_start(file) if flattened else _at(file, 0, _FIRST_BYTES)
    if len(start) < _HEADER.itemsize or start[:8] != SIGNATURE:
        if flattened and start[:4] == b"\x7fELF":
            raise TargetError(
                f"{path} is a flattened ELF dump: which memory it lacks can't be told",
                hint=f"reassemble it: makedumpfile -R vmcore.elf < {path}",
            )
        raise TargetError(f"{path} is cut off in its header")
    header = np.frombuffer(start, _HEADER, 1)[0]
    machine = bytes(header["uts"][4]).split(b"\0")[0].decode("ascii", "replace")
    machine = "" if machine == _OF_QEMU else machine
    block = int(header["block_size"])
    if block in PAGE_SIZES or int(header["block_size"].byteswap()) in PAGE_SIZES:
        refuse_machine(path, machine)
    if block not in PAGE_SIZES:
        raise TargetError(f"{path} is damaged: its header says pages of {block} bytes")
    if len(start) < block + _SUB_HEADER.itemsize:
        raise TargetError(f"{path} is cut off in its header")
    sub = np.frombuffer(start, _SUB_HEADER, 1, block)[0]
    wide = header["version"] >= 6
    sub_blocks, bitmap_blocks = int(header["sub_hdr_size"]), int(header["bitmap_blocks"])
    max_mapnr = int(sub["max_mapnr_64"] if wide else header["max_mapnr"])
    split, start_pfn, end_pfn = bool(sub["split"]), 0, max_mapnr
    if split:
        start_pfn = int(sub["start_pfn_64"] if wide else sub["start_pfn"])
        end_pfn = int(sub["end_pfn_64"] if wide else sub["end_pfn"])
    fits = 0 < max_mapnr <= bitmap_blocks * block * 4 and start_pfn <= end_pfn <= max_mapnr
    if sub_blocks < 1 or not fits:
        raise TargetError(f"{path} is damaged: the sizes in its header contradict each other")
    if max_mapnr > _MOST_FRAMES:
        raise TargetError(f"{path} is damaged: its header says {max_mapnr:,} frames of memory")
    status = int(header["status"])
    half = bitmap_blocks * block // 2
    return KdumpHeader(
        level=int(sub["dump_level"]),
        split=split,
        start_pfn=start_pfn,
        end_pfn=end_pfn,
        max_mapnr=max_mapnr,
        moment=_moment(file, header, sub) if split else b"",
        machine=machine,
        compression=next((name for bit, name in _COMPRESSIONS.items() if status & bit), "none"),
        incomplete=bool(status & _STATUS_INCOMPLETE),
        block_bytes=block,
        bitmap_offset=(1 + sub_blocks) * block + half,
        bitmap_bytes=half,
    )


def _moment(file: BinaryIO, header: np.void, sub: np.void) -> bytes:
    """System and time of the dump, and its notes: registers of the CPUs, VMCOREINFO."""
    offset, size = (int(number) for number in sub["note"][:2])
    notes = _at(file, offset, min(size, _MOST_NOTES_BYTES)) if offset < 1 << 62 else b""
    fields = ("uts", "timestamp", "max_mapnr")
    return b"".join([*(header[name].tobytes() for name in fields), notes])


def flattened_to_its_end(file: BinaryIO, size_bytes: int) -> bool:
    """Whether a flattened file has its end mark: without it, it is cut off."""
    return _at(file, max(0, size_bytes - len(_FLAT_END)), len(_FLAT_END)) == _FLAT_END


def _at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _flat_start(file: BinaryIO) -> bytes:
    """The first blocks of what a flattened file unfolds to, as far as written first."""
    start = bytearray(_FIRST_BYTES)
    file.seek(_FLAT_HEADER_BYTES)
    end = 0
    for _ in range(_HEADER_RECORDS):
        record = file.read(16)
        offset, size = (int.from_bytes(record[i : i + 8], "big", signed=True) for i in (0, 8))
        if len(record) < 16 or offset < 0 or size < 0:
            break
        if offset < len(start):
            data = file.read(min(size, len(start) - offset))
            start[offset : offset + len(data)] = data
            end = max(end, offset + len(data))
            size -= len(data)
        file.seek(size, 1)
    return bytes(start[:end])


def _bits_before(descriptor: int, offset: int, words: int) -> npt.NDArray[np.int64]:
    """How many bits are set before each block of the bitmap of ``words`` at ``offset``.

    Holes of the file are passed over: it may be made up, and far larger than what is in it.
    """
    counts = np.zeros(-(-words // _BLOCK_WORDS) + 1, np.int64)
    at, end = 0, words * 8
    while at < end:
        try:
            data = os.lseek(descriptor, offset + at, os.SEEK_DATA) - offset
        except OSError:  # nothing but a hole up to the end of the file
            break
        at = data // _BLOCK_BYTES * _BLOCK_BYTES
        size = min(_COUNTED_BYTES, end - at)
        if size <= 0:
            break
        raw = os.pread(descriptor, size, offset + at)
        whole = raw.ljust(-(-size // _BLOCK_BYTES) * _BLOCK_BYTES, b"\0")
        bits = np.bitwise_count(np.frombuffer(whole, "<u8"))
        first = 1 + at // _BLOCK_BYTES
        sums = bits.reshape(-1, _BLOCK_WORDS).sum(axis=1, dtype=np.int64)
        counts[first : first + len(sums)] = sums
        at += size
    np.cumsum(counts, out=counts)
    return counts


class KdumpPages:
    """Where a kdump file (not flattened) keeps each page.

    The bitmaps of a file of a split dump are those of the whole dump, its page descriptors are of
    its own pages. Raises TargetError where the bitmaps are made up, and far too large.
    """

    def __init__(self, path: Path, header: KdumpHeader) -> None:
        self.path = path
        with path.open("rb") as file:
            self._file = np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8)
            in_file = max(0, min(header.bitmap_bytes, self._file.size - header.bitmap_offset))
            words = min(in_file // 8, -(-header.max_mapnr // 64))
            self._before = _bits_before(file.fileno(), header.bitmap_offset, words)
            if header.max_mapnr > _USUAL_FRAMES and in_file == header.bitmap_bytes:
                valid = header.bitmap_offset - header.bitmap_bytes
                frames = int(_bits_before(file.fileno(), valid, words)[-1])
                if frames * _MOST_SPREAD < header.max_mapnr:
                    raise TargetError(
                        f"{path} is damaged: its header says {header.max_mapnr:,} frames of memory,"
                        f" its bitmap {frames:,}"
                    )
        self._bitmap = self._file[header.bitmap_offset :][: words * 8].view("<u8")
        valid = header.bitmap_offset - header.bitmap_bytes
        self._valid = self._file[valid:][: words * 8].view("<u8")
        self._descriptors = header.bitmap_offset + header.bitmap_bytes
        self._page_bytes = header.block_bytes
        self._truncated = in_file < header.bitmap_bytes
        self._start_pfn, self._end_pfn = np.array([header.start_pfn, header.end_pfn], np.uint64)
        self._first = self._rank(header.start_pfn) if header.split else 0

    @property
    def missing_bytes(self) -> int:
        """How much shorter the file is than its last page descriptor says; at least."""
        dumped = self._rank(int(self._end_pfn)) - self._first
        end = self._descriptors + dumped * _PAGE_DESC.itemsize
        if end <= self._file.size and dumped:
            last = self._describe(np.arange(max(0, dumped - 64), dumped))
            plausible = last["size"] <= self._page_bytes
            end = int((last["offset"] + last["size"])[plausible].max(initial=end))
        return max(0, end - self._file.size)

    def pfns_of_size(self, least: int, most: int) -> Iterator[int]:
        """The pages that take ``least`` to ``most`` bytes in the file, ascending."""
        number = 0
        there = max(0, self._file.size - self._descriptors) // _PAGE_DESC.itemsize
        for start in range(0, len(self._bitmap), _BLOCK_WORDS):
            words = self._bitmap[start : start + _BLOCK_WORDS]
            bits = np.unpackbits(words.view(np.uint8), bitorder="little")
            pfns = (np.flatnonzero(bits) + start * 64)[: there - number]
            size = self._describe(np.arange(number, number + len(pfns)))["size"]
            number += len(pfns)
            yield from pfns[(size >= least) & (size <= most)].tolist()

    def extent(self, pfns: Words) -> tuple[int, int]:
        """From where to where in the file the pages from the first to the last of ``pfns`` lie.

        makedumpfile writes them in the order of PFNs; (0, 0) where the file has none of them.
        """
        here = pfns[self.unknown(pfns) == Unknown.HASHED]
        here = here[self.holds(here)]
        if not len(here):
            return 0, 0
        ends = [self._rank(int(pfn)) - self._first for pfn in (here.min(), here.max())]
        first, last = self._describe(np.array(ends))
        return int(first["offset"]), int(last["offset"]) + int(last["size"])

    def holds(self, pfns: Words) -> npt.NDArray[np.bool_]:
        """Which of ``pfns`` this file of a split dump is for."""
        return (self._start_pfn <= pfns) & (pfns < self._end_pfn)

    def unknown(self, pfns: Words) -> npt.NDArray[np.uint8]:
        """Why the frames ``pfns`` can't be read, ``Unknown``, u8 (n,); HASHED where they can.

        The first bitmap says which frames there were, the second which of them were written.
        """
        word = (pfns >> np.uint64(6)).astype(np.int64)
        inside = word < len(self._bitmap)
        word[~inside] = 0
        bit = np.uint64(1) << (pfns & np.uint64(63))
        found = np.full(len(pfns), Unknown.TRUNCATED if self._truncated else Unknown.UNREADABLE)
        if not len(self._bitmap):
            return found.astype(np.uint8)
        value = self._bitmap[word]
        found[inside & ((value & bit) == 0) & ((self._valid[word] & bit) != 0)] = Unknown.EXCLUDED
        rows = np.flatnonzero(inside & ((value & bit) != 0))
        lower = np.bitwise_count(value[rows] & (bit[rows] - np.uint64(1)))
        found[rows] = self._judge(self._ranks(word[rows]) + lower - self._first)
        return found.astype(np.uint8)

    def _ranks(self, words: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many pages the second bitmap has before each of its ``words``, i64 (n,)."""
        blocks, row = np.unique(words // _BLOCK_WORDS, return_inverse=True)
        inside = blocks[:, None] * _BLOCK_WORDS + np.arange(_BLOCK_WORDS)
        counts = np.bitwise_count(self._bitmap[np.minimum(inside, len(self._bitmap) - 1)])
        place = (row, words % _BLOCK_WORDS)
        upto = np.cumsum(counts, axis=1, dtype=np.uint16)
        ranks: npt.NDArray[np.int64] = self._before[blocks[row]] + upto[place] - counts[place]
        return ranks

    def _rank(self, pfn: int) -> int:
        """How many pages before ``pfn`` the second bitmap has."""
        if not len(self._bitmap):
            return 0
        word = min(pfn >> 6, len(self._bitmap))
        rest = self._bitmap[word : word + 1] & np.uint64((1 << (pfn & 63)) - 1)
        return int(self._ranks(np.array([word]))[0]) + int(np.bitwise_count(rest).sum())

    def _judge(self, number: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Unknown codes of the pages with the descriptors ``number``."""
        end = self._descriptors + (number + 1) * _PAGE_DESC.itemsize
        found = np.where(end > self._file.size, Unknown.TRUNCATED, Unknown.HASHED)
        rows = np.flatnonzero(found == Unknown.HASHED)
        page = self._describe(number[rows])
        size = np.uint64(self._file.size)
        found[rows[page["offset"] + page["size"] > size]] = Unknown.TRUNCATED
        damaged = (page["size"] == 0) | (page["size"] > self._page_bytes)
        damaged |= (page["flags"] & ~_ALL_COMPRESSIONS) != 0
        damaged |= page["offset"] < np.uint64(self._descriptors)
        found[rows[damaged]] = Unknown.UNREADABLE
        return found

    def _describe(self, number: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
        behind = self._file[self._descriptors :]
        table = behind[: behind.size // _PAGE_DESC.itemsize * _PAGE_DESC.itemsize].view(_PAGE_DESC)
        found: npt.NDArray[np.void] = table[number]
        return found
