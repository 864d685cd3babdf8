"""Which of the processes of a running kernel is the one that reads it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from estimator.arrays import Mask
from estimator.collect.namespaces import in_first_namespace

if TYPE_CHECKING:
    from estimator.kernel.processes import Mms

_PROC = Path("/proc")
_FIELDS = {"start_stack": 28, "start_brk": 47, "arg_start": 48}  # of proc_pid_stat(5)


def own_mm(mms: Mms) -> Mask:
    """Whether each of the mms is that of this process: by where its stack, heap and arguments are.

    Where several lie alike, since one has forked the others, by pid; in a PID namespace a process
    does not know the pid that the kernel goes by: then none is.
    """
    fields = (_PROC / "self/stat").read_bytes().rpartition(b")")[2].split()  # a name is bytes
    own = np.ones(len(mms.structs), np.bool_)
    for name, number in _FIELDS.items():
        own &= mms.structs[name] == int(fields[number - 3])
    if np.count_nonzero(own) > 1:
        own &= (mms.columns["pid"] == os.getpid()) & in_first_namespace(_PROC, "pid")
    return own
