"""A kernel as it lies in a package, not booted: its types, symbols and initial data."""

from __future__ import annotations

import lzma
import struct
import zlib
from pathlib import Path

import pyarrow as pa
from drgn import Architecture, FindObjectFlags, Object, Platform, Program

from estimator.kernel.carried import CarriedSymbols, carry_symbols
from tests.lab.apt import LabError

_SETUP_SECTORS, _HEADER_MAGIC, _PAYLOAD = 0x1F1, 0x202, 0x248
_SECTOR = 512
_LZ4_BLOCK = 8 << 20
_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_PT_LOAD, _PF_X = 1, 1


def vmlinux_of(vmlinuz: Path) -> bytes:
    """The ELF file inside of a bzImage (Documentation/arch/x86/boot.rst). Raises LabError."""
    image = vmlinuz.read_bytes()
    if image[_HEADER_MAGIC : _HEADER_MAGIC + 4] != b"HdrS":
        raise LabError(f"{vmlinuz} is no bzImage")
    start, length = struct.unpack_from("<II", image, _PAYLOAD)
    start += (image[_SETUP_SECTORS] + 1) * _SECTOR
    payload = image[start : start + length - 4]
    (unpacked,) = struct.unpack_from("<I", image, start + length - 4)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(payload)
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return pa.CompressedInputStream(pa.BufferReader(payload), "zstd").read()
    if payload.startswith(b"\x02\x21\x4c\x18"):
        return _lz4(payload[4:], unpacked)
    raise LabError(f"{vmlinuz} is packed in a way unknown here: {payload[:6].hex()}")


def _lz4(blocks: bytes, unpacked: int) -> bytes:
    """The "legacy" format of lz4: blocks of 8 MiB, each with its packed length before it."""
    codec, at = pa.Codec("lz4_raw"), 0
    parts: list[bytes] = []
    while at < len(blocks):
        (length,) = struct.unpack_from("<I", blocks, at)
        size = min(_LZ4_BLOCK, unpacked - _LZ4_BLOCK * len(parts))
        packed = blocks[at + 4 : at + 4 + length]
        parts.append(codec.decompress(packed, decompressed_size=size, asbytes=True))
        at += 4 + length
    return b"".join(parts)


def program_of(vmlinux: bytes, release: str) -> tuple[Program, CarriedSymbols]:
    """The kernel as a drgn Program that finds its types and symbols in its own image."""
    prog = Program(Platform(Architecture.X86_64))
    header = _ELF_HEADER.unpack_from(vmlinux)
    offset, count = header[5], header[10]
    stext = None
    for number in range(count):
        kind, flags, at, address, _, size, _, _ = _PROGRAM_HEADER.unpack_from(
            vmlinux, offset + number * _PROGRAM_HEADER.size
        )
        if kind != _PT_LOAD or not address:  # per-CPU data until 6.14, at address 0
            continue
        if flags & _PF_X and stext is None:
            stext = address
        _add(prog, address, vmlinux[at : at + size])
    texts = {
        "VMCOREINFO": f"OSRELEASE={release}\nSYMBOL(_stext)={stext or 0:x}\n".encode(),
        "UTS_RELEASE": release.encode(),
    }

    def find(prog: Program, name: str, flags: FindObjectFlags, file: str | None) -> Object | None:
        if name not in texts:
            return None
        type_ = prog.array_type(prog.int_type("char", 1, True), len(texts[name]) + 1)
        return Object(prog, type_, [*texts[name], 0])

    prog.register_object_finder("texts", find, enable_index=0)
    return prog, carry_symbols(prog)


def _add(prog: Program, start: int, data: bytes) -> None:
    def read(address: int, size: int, offset: int, physical: bool) -> bytes:
        return data[offset : offset + size]

    prog.add_memory_segment(start, len(data), read)
