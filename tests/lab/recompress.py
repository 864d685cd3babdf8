"""A kdump file with its pages compressed another way: as makedumpfile itself may not."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pyarrow as pa

FLAGS = {"zlib": 0x1, "snappy": 0x4, "zstd": 0x20}
_STATUS_OFFSET, _BLOCK = 424, 4096
_DESCRIPTOR = struct.Struct("<QIIQ")


def recompress(source: Path, destination: Path, codec: str) -> None:
    """Copy the kdump file ``source``, zlib's pages compressed with ``codec``."""
    data = bytearray(source.read_bytes())
    sub_blocks, bitmap_blocks = struct.unpack_from("<iI", data, _STATUS_OFFSET + 8)
    bitmap = (1 + sub_blocks) * _BLOCK
    table = bitmap + bitmap_blocks * _BLOCK
    second_bitmap = data[bitmap + (table - bitmap) // 2 : table]
    count = int.from_bytes(second_bitmap, "little").bit_count()
    end = table + count * _DESCRIPTOR.size
    struct.pack_into("<I", data, _STATUS_OFFSET, FLAGS[codec])
    pages, written = bytearray(), {}
    for at in range(table, end, _DESCRIPTOR.size):
        offset, size, flags, page_flags = _DESCRIPTOR.unpack_from(data, at)
        if offset not in written:  # all zero pages share one
            page = bytes(data[offset : offset + size])
            if flags & FLAGS["zlib"]:
                page = pa.compress(zlib.decompress(page), codec=codec, asbytes=True)
                flags = FLAGS[codec]
            written[offset] = (end + len(pages), len(page), flags)
            pages += page
        _DESCRIPTOR.pack_into(data, at, *written[offset], page_flags)
    destination.write_bytes(data[:end] + pages)
