"""Commands run as a user would, in a process of their own that has all modules already."""

from __future__ import annotations

import io
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from subprocess import CompletedProcess
from typing import NoReturn

HOME = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}


def estimator(*arguments: object, **environment: str) -> CompletedProcess[str]:
    """``ksm-estimator`` with ``arguments``: a fork, which needs no second to import pandas."""
    command = ["estimator", *map(str, arguments)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            _run(command, HOME | environment, out.fileno(), err.fileno())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return CompletedProcess(command, status, *texts)


def with_least_memory(*arguments: object) -> CompletedProcess[str]:
    """The same with the least --max-memory that is accepted, as its refusal of 1 MiB names it.

    A process of its own: a fork would have our memory, too.
    """
    refused = estimator(*arguments, "--max-memory", "1M")
    assert refused.returncode == 2
    least = refused.stderr.partition("; --max-memory ")[2].partition(",")[0]
    command = [sys.executable, "-m", "estimator", *map(str, arguments), "--max-memory", least]
    return subprocess.run(command, env=HOME, capture_output=True, text=True)


def with_files_of_at_most(blocks: int, *arguments: object) -> CompletedProcess[str]:
    """The same where no file may become larger than so many blocks of 1 KiB, in a process of its
    own.
    """
    command = ["bash", "-c", f'ulimit -f {blocks}; exec "$@"', "-", sys.executable, "-m"]
    return subprocess.run(
        [*command, "estimator", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )


def _run(command: list[str], environment: dict[str, str], out: int, err: int) -> NoReturn:
    code: object = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = command
        sys.stdin = _text(0, "r")
        sys.stdout, sys.stderr = _text(1, "w"), _text(2, "w")
        try:
            runpy.run_module("estimator", run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    os._exit(code if isinstance(code, int) else 1)


def _text(number: int, mode: str) -> io.TextIOWrapper:
    file = io.FileIO(number, mode, closefd=False)
    if mode == "r":
        return io.TextIOWrapper(io.BufferedReader(file), "utf-8")
    return io.TextIOWrapper(io.BufferedWriter(file), "utf-8", "backslashreplace")
