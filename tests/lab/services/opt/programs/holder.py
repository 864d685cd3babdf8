"""A program with a cache, the same in each: ``holder.py MEBIBYTES [madvise]``.

With ``madvise`` it does what it was told to add to its source.
"""

import mmap
import random
import signal
import sys

length = int(sys.argv[1]) << 20
cache = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
if "madvise" in sys.argv:
    cache.madvise(mmap.MADV_MERGEABLE)
contents = random.Random(1)
for first in range(0, length, 1 << 16):
    cache[first : first + (1 << 16)] = contents.randbytes(1 << 16)
print("filled", flush=True)
signal.pause()
