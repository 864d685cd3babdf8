"""What to type to start a program again.

A program is called by the comm of its process everywhere: in the tables, and for ``--comm``. The
kernel makes it of the first 15 bytes of the file's name, and prctl(PR_SET_NAME) changes it. To
start it takes a file, and the command line may say anything: a name without a directory, a title.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pandas as pd

_COMM_BYTES = 15  # TASK_COMM_LEN of include/linux/sched.h, less the zero


def program_file(process: pd.Series[Any], mapped: pd.Series[str]) -> str:
    """The file that ``process`` (a row of ``processes``) runs, as far as a snapshot shows it.

    The first word of its command line, if that is an absolute path; else the first of its VMAs'
    files (``mapped``, their names by address) that is called as this word says, or as comm does;
    else comm. No arguments: they may be secrets.
    """
    comm = str(process["comm"])
    cmdline = process["cmdline"] if isinstance(process["cmdline"], str) else ""
    first = cmdline.replace("\0", " ").partition(" ")[0]
    if first.startswith("/") and not first.endswith(":"):  # the title of a daemon: "/sbin/x: idle"
        return first
    called = PurePosixPath(first.removesuffix(":")).name
    files = [name for name in mapped if name.startswith("/") and not name.endswith(" (deleted)")]
    for file in files:
        name = PurePosixPath(file).name
        if name == called or name.encode()[:_COMM_BYTES].decode(errors="replace") == comm:
            return file
    return comm
