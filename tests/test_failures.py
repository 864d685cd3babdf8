"""What fails while a kernel is read is told by its cause: the dump, the kernel, or this machine."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from drgn import Architecture, BadDataError, FaultError, Platform, Program

from estimator.collect.findings import Findings
from estimator.errors import CannotAnswerError, ResourceError, TargetError
from estimator.kernel import check_core, collect, requirements
from estimator.kernel import memory as memory_module
from estimator.kernel.memory import Memory
from estimator.kernel.target import Target
from estimator.snapshot.flags import Unknown


def lacking(name: str) -> Exception:
    """What drgn raises for a type or a variable that this kernel has not."""
    prog = Program(Platform(Architecture.X86_64))
    try:
        prog.type(name) if " " in name else prog[name]
    except LookupError as error:
        return error
    raise AssertionError


def target() -> Target:
    release = SimpleNamespace(string_=lambda: b"5.15.0-91-generic")
    prog = cast(Any, {"UTS_RELEASE": release})
    return Target(prog, cast(Any, SimpleNamespace(close=lambda: None)), "core", "vmcore", "elf")


def collecting(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(requirements, "require_ksm", lambda prog: None)
    monkeypatch.setattr(collect._Collector, "gather", fail)
    collect.collect(target())


def checking(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(check_core, "_anonymous_memory", fail)
    check_core.ask_memory(target(), Findings())


both = pytest.mark.parametrize("run", [collecting, checking])
Run = Callable[[pytest.MonkeyPatch, Exception], None]


@both
@pytest.mark.parametrize(
    "error",
    [
        FaultError("could not find memory segment", 0x1000),
        BadDataError("bad"),
        OSError(errno.EIO, "Input/output error"),
    ],
)
def test_what_cannot_be_read_is_damage(
    run: Run, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TargetError, match="vmcore is damaged or incomplete"):
        run(monkeypatch, error)


@both
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "not enough memory"),
        (np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype("u8")), "not enough memory"),  # type: ignore[attr-defined]
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "not enough memory"),
        (OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "no more processes"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "too many files"),
    ],
)
def test_our_own_limits_are_no_damage(
    run: Run, error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ResourceError, match=message) as raised:
        run(monkeypatch, error)
    assert raised.value.exit_code == 1
    assert "\n" not in str(raised.value)


@both
@pytest.mark.parametrize("name", ["struct folio", "zero_pfn"])
def test_what_this_kernel_lacks_is_named(
    run: Run, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CannotAnswerError, match=f"5.15.0-91-generic is not supported.*{name}"):
        run(monkeypatch, lacking(name))


@both
@pytest.mark.parametrize("error", [KeyError("x"), IndexError("x"), TypeError("x")])
def test_our_own_bugs_are_not_hidden(
    run: Run, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(type(error)):
        run(monkeypatch, error)


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EIO])
def test_a_read_that_lacks_memory_makes_no_unreadable_page(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> bytes:
        raise OSError(code, os.strerror(code))

    direct_map = SimpleNamespace(value_=lambda: 0)
    monkeypatch.setattr(memory_module, "phys_to_virt", lambda prog, address: direct_map)
    monkeypatch.setattr(memory_module, "page_shift", lambda prog: 12)
    memory = Memory(cast(Any, SimpleNamespace(read=read, platform=None)))
    pfns = np.arange(3, dtype=np.uint64)
    data = np.empty(8, np.uint8)
    if code == errno.EIO:
        assert (memory.frames(pfns)[1] == Unknown.UNREADABLE).all()
        assert not memory.virtual_run(0, data)
        return
    with pytest.raises(OSError, match="allocate"):
        memory.frames(pfns)
    with pytest.raises(OSError, match="allocate"):
        memory.virtual_run(0, data)
