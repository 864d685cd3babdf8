"""A kdump file with its pages compressed another way: as Debian's tools do not."""

from __future__ import annotations

import ctypes
import mmap
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from tests.lab.makedumpfile import fetch_makedumpfile

FLAGS = {"zlib": 0x1, "lzo": 0x2, "snappy": 0x4, "zstd": 0x20}
_STATUS_OFFSET, _BLOCK = 424, 4096
_DESCRIPTOR = struct.Struct("<QIIQ")
_LZO_MEMORY_BYTES = 1 << 17  # LZO1X_1_MEM_COMPRESS


def recompress(source: Path, destination: Path, codec: str) -> None:
    """Copy the kdump file ``source`` (not flattened), zlib's pages compressed with ``codec``.

    The headers stay as they are but for the compression; a page that does not get smaller is stored
    as it is.
    """
    compress = _lzo() if codec == "lzo" else _arrow(codec)
    with source.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    sub_blocks, bitmap_blocks = struct.unpack_from("<iI", data, _STATUS_OFFSET + 8)
    bitmap = (1 + sub_blocks) * _BLOCK
    table = bitmap + bitmap_blocks * _BLOCK
    second_bitmap = data[bitmap + (table - bitmap) // 2 : table]
    count = int.from_bytes(second_bitmap, "little").bit_count()
    end = table + count * _DESCRIPTOR.size
    head = bytearray(data[:end])
    struct.pack_into("<I", head, _STATUS_OFFSET, FLAGS[codec])
    written: dict[int, tuple[int, int, int]] = {}
    with destination.open("wb") as file:
        file.seek(end)
        for at in range(table, end, _DESCRIPTOR.size):
            offset, size, flags, page_flags = _DESCRIPTOR.unpack_from(head, at)
            if offset not in written:  # all zero pages share one
                page = data[offset : offset + size]
                if flags & FLAGS["zlib"]:
                    plain = zlib.decompress(page)
                    page = compress(plain)
                    flags = FLAGS[codec]
                    if len(page) >= len(plain):
                        page, flags = plain, 0
                written[offset] = (file.tell(), len(page), flags)
                file.write(page)
            _DESCRIPTOR.pack_into(head, at, *written[offset], page_flags)
        file.seek(0)
        file.write(head)


def _arrow(codec: str) -> Callable[[bytes], bytes]:
    return lambda page: pa.compress(page, codec=codec, asbytes=True)


def _lzo() -> Callable[[bytes], bytes]:
    compress = ctypes.CDLL(str(fetch_makedumpfile() / "liblzo2.so.2")).lzo1x_1_compress
    compress.argtypes = (
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p),
        *(ctypes.POINTER(ctypes.c_size_t), ctypes.c_char_p),
    )
    memory = ctypes.create_string_buffer(_LZO_MEMORY_BYTES)

    def lzo(page: bytes) -> bytes:
        output = ctypes.create_string_buffer(2 * len(page))
        size = ctypes.c_size_t()
        if status := compress(page, len(page), output, ctypes.byref(size), memory):
            raise ValueError(f"lzo1x_1_compress: {status}")
        return output.raw[: size.value]

    return lzo
