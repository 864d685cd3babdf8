"""The contents of frames as 64-bit hashes."""

from __future__ import annotations

import mmap
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from estimator.facts import Unknown
from estimator.kernel.memory import PAGE_SIZE, Memory, Words

HASH_NAME = "xxh3_64"
_PIECE_PAGES = 4096


def hash_frames(
    memory: Memory, pfns: Words, seed: int, workers: int, done: Callable[[int], None]
) -> tuple[Words, npt.NDArray[np.uint8]]:
    """Hashes of the frames ``pfns``, u64 (n,), and ``Unknown`` codes, u8 (n,).

    The hash of an unknown frame is 0 and means nothing. ``workers`` processes are forked to share
    the work. ``done`` is told how many frames are hashed so far.
    """
    n = len(pfns)
    shared = np.frombuffer(mmap.mmap(-1, 9 * n + 1), np.uint8)
    hashes, unknown = shared[: 8 * n].view(np.uint64), shared[8 * n : 9 * n]
    pieces = [slice(start, start + _PIECE_PAGES) for start in range(0, n, _PIECE_PAGES)]

    def hash_pieces(worker: int, tell: Callable[[int], None]) -> None:
        for number, rows in enumerate(pieces[worker::workers], 1):
            contents, unknown[rows] = memory.contents(pfns[rows])
            digests = map(xxh3_64_intdigest, contents, repeat(seed))
            hashes[rows] = np.fromiter(digests, np.uint64, len(pfns[rows]))
            tell(min(number * workers * _PIECE_PAGES, n))

    with forked(workers - 1, lambda worker: hash_pieces(worker + 1, lambda _: None)):
        hash_pieces(0, done)
    hashes[unknown != Unknown.HASHED] = 0
    return hashes, unknown


@contextmanager
def forked(count: int, work: Callable[[int], None]) -> Iterator[None]:
    """Run ``work(0)`` to ``work(count - 1)`` in forked processes beside the body of the context.

    drgn can be used in them: symbols are loaded before. Raises RuntimeError if one fails; none of
    them outlives the context.
    """
    children = []
    try:
        for number in range(count):
            pid = os.fork()
            if pid == 0:
                _child(work, number)
            children.append(pid)
        yield
        while children:
            _, status = os.waitpid(children[-1], 0)
            children.pop()
            if status:
                raise RuntimeError(f"a worker ended with status {status}")
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _child(work: Callable[[int], None], number: int) -> None:
    status = 1
    try:
        work(number)
        status = 0
    except KeyboardInterrupt:
        pass
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)


def zero_hash(seed: int) -> int:
    """The hash of a zero-filled frame."""
    return int(xxh3_64_intdigest(bytes(PAGE_SIZE), seed))
