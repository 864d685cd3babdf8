"""Runs in a guest: what /proc says of the pages of some processes, without any of our code.

pagemap_probe.py PID ...: one JSON object, {pid: {"pages": [[address, pfn, kpageflags], ...],
"smaps": {start address: {"Anonymous": kB, ...}}}}; only pages that are present.
"""

import json
import re
import struct
import sys
from typing import Any, BinaryIO

PAGE = 4096
PRESENT = 1 << 63
PFN = (1 << 55) - 1


def word(file: BinaryIO, index: int) -> int:
    file.seek(8 * index)
    (found,) = struct.unpack("<Q", file.read(8))
    return int(found)


def process(pid: str, kpageflags: BinaryIO) -> dict[str, Any]:
    pages: list[list[int]] = []
    smaps: dict[str, dict[str, int]] = {}
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        for line in maps:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if "[v" in line:  # vdso, vvar, vsyscall
                continue
            for address in range(start, end, PAGE):
                entry = word(pagemap, address // PAGE)
                if entry & PRESENT:
                    pages.append([address, entry & PFN, word(kpageflags, entry & PFN)])
    with open(f"/proc/{pid}/smaps") as lines:
        for line in lines:
            header = re.match(r"([0-9a-f]+)-[0-9a-f]+ ", line)
            if header:
                values = smaps[str(int(header[1], 16))] = {}
            elif line.endswith(" kB\n"):
                values[line.split(":")[0]] = int(line.split()[1])
    return {"pages": pages, "smaps": smaps}


with open("/proc/kpageflags", "rb") as kpageflags:
    json.dump({pid: process(pid, kpageflags) for pid in sys.argv[1:]}, sys.stdout)
