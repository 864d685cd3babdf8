"""The lab's own programs that run in a guest, compiled into the cache."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from tests.lab.kernels import LabError, cache_directory, locked

SOURCES = Path(__file__).parent
FLAGS = ("-static", "-O2", "-Wall", "-Wextra", "-Wno-format-truncation", "-pthread")


def build(name: str) -> Path:
    """The static program made from ``NAME.c``; compiled anew when the source has changed."""
    source = SOURCES / f"{name}.c"
    digest = hashlib.sha256(repr(FLAGS).encode() + source.read_bytes()).hexdigest()[:16]
    program = cache_directory() / f"{name}-{digest}"
    with locked(cache_directory() / f"{name}.lock"):
        if not program.exists():
            temporary = program.with_suffix(".new")
            command = ["gcc", *FLAGS, "-o", str(temporary), str(source)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise LabError(f"{source.name} does not compile: {done.stderr}")
            temporary.rename(program)
    return program
