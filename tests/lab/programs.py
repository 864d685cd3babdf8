"""The lab's own programs that run in a guest, compiled into the cache."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from tests.lab.apt import LabError
from tests.lab.kernels import Kernel, cache_directory, locked

SOURCES = Path(__file__).parent
PROGRAMS = {
    "actor": ("actor.c", "regions.c"),
    "churn": ("churn.c",),
    "crash_load": ("crash_load.c",),
    "probe": ("probe.c",),
}
COMPILERS = {"x86_64": "gcc", "aarch64": "aarch64-linux-gnu-gcc"}
FLAGS = ("-static", "-O2", "-Wall", "-Wextra", "-Wno-format-truncation", "-pthread")


def build(name: str, kernel: Kernel | None = None) -> Path:
    """The static program ``name`` for ``kernel``, or for this machine; compiled if changed."""
    machine, page_bytes = (kernel.machine, kernel.page_bytes) if kernel else ("x86_64", 4096)
    compiler = COMPILERS[machine]
    flags = (*FLAGS, f"-DPAGE={page_bytes}")
    sources = [SOURCES / source for source in PROGRAMS[name]]
    texts = [path.read_bytes() for path in (*sources, *sorted(SOURCES.glob("*.h")))]
    digest = hashlib.sha256(b"".join((repr((compiler, flags)).encode(), *texts))).hexdigest()[:16]
    program = cache_directory() / f"{name}-{digest}"
    with locked(cache_directory() / f"{name}.lock"):
        if not program.exists():
            temporary = program.with_suffix(".new")
            command = [compiler, *flags, "-o", str(temporary), *map(str, sources)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise LabError(f"{name} does not compile: {done.stderr}")
            temporary.rename(program)
    return program
