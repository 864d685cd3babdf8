"""A program with a cache, the same in each: ``holder.py MIBIBYTES [madvise]``.

With ``madvise`` it does what it was told to add to its source.
"""

import ctypes
import mmap
import random
import signal
import sys

PR_SET_VMA, PR_SET_VMA_ANON_NAME = 0x53564D41, 0

length = int(sys.argv[1]) << 20
cache = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = ctypes.addressof(ctypes.c_char.from_buffer(cache))
arguments = map(ctypes.c_ulong, (PR_SET_VMA_ANON_NAME, start, length))
ctypes.CDLL(None).prctl(PR_SET_VMA, *arguments, b"cache")
if "madvise" in sys.argv:
    cache.madvise(mmap.MADV_MERGEABLE)
cache[:] = random.Random(1).randbytes(length)
print("filled", flush=True)
signal.pause()
