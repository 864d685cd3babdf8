"""LiME's and AVML's files: where their memory is, what they lack, what is damaged."""

from __future__ import annotations

import os
import shutil
import struct
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from drgn import FaultError

from estimator.errors import EstimatorError, ResourceError, TargetError
from estimator.kernel.core import open_program
from estimator.kernel.dump.avml import unpack
from estimator.kernel.dump.file import DumpFile, inspect
from tests.raw_memory import avml, lime
from tests.test_find_vmcoreinfo import PAGE
from tests.test_raw import MIB, RELEASE, kernel

MEMORY = kernel(pages=600)
HOLE = (20 * PAGE, 30 * PAGE)
NOISE = np.random.default_rng(1).integers(0, 256, 9 * MIB, np.uint8).tobytes()
BLOCKS = [(0, MEMORY[: HOLE[0]]), (HOLE[1], MEMORY[HOLE[1] :]), (16 * MIB, NOISE + bytes(9 * MIB))]
MAKERS = {"lime": lime, "avml": avml}


@pytest.fixture(params=MAKERS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file whose name is its format."""
    path = tmp_path / str(request.param)
    path.write_bytes(MAKERS[request.param](BLOCKS))
    return path


def test_the_memory_in_it(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    dump = inspect(path)
    assert (dump.format, dump.cut, dump.missing_bytes) == (path.name, "", 0)
    prog, dump = open_program(dump)
    assert os.listdir(tmp_path) == [path.name]  # nothing with a name
    assert dump.vmcoreinfo_address is None
    assert prog["UTS_RELEASE"].string_() == RELEASE.encode()
    for address, data in BLOCKS:
        assert prog.read(address, len(data), True) == data
    for hole in (HOLE[0], HOLE[1] - 16, 34 * MIB):
        with pytest.raises(FaultError):
            prog.read(hole, 16, True)


def test_no_file_stays_open(path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    prog, dump = open_program(inspect(path))
    dump.open().close()
    del prog, dump
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("lost", [1, 5, 8, 9, 16, 4096, 100_000, 9 * MIB])
def test_cut_off(lost: int, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-lost])
    dump = inspect(path)
    assert 0 < dump.missing_bytes <= max(lost, 100_000)
    assert "is cut off: it has" in dump.cut
    prog, _ = open_program(dump)
    address, data = BLOCKS[-1]
    if lost < 9 * MIB:
        assert prog.read(address, MIB, True) == data[:MIB]
    if lost > 8:  # more than what AVML has behind the last stream
        with pytest.raises(FaultError):
            prog.read(address + len(data) - 16, 16, True)


@pytest.mark.parametrize("size", [4, 31, 33, 40, 60])
def test_cut_off_at_its_beginning(size: int, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(TargetError, match=r"is cut off: .* no Linux kernel was found in it"):
        open_program(inspect(path))


def test_cut_off_in_the_header_of_another_block(path: Path) -> None:
    path.write_bytes(path.read_bytes() + path.read_bytes()[:7])
    assert inspect(path).missing_bytes == 25


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (4, struct.pack("<I", 9), "is of version 9 of its format, only . is known"),
        (8, struct.pack("<Q", 1 << 40), "is damaged: a block of memory from 0x10000000000 to"),
        (16, struct.pack("<Q", 1 << 60), "is damaged: a block of memory from 0x0 to 0x1000000000"),
        (16, struct.pack("<Q", 7), "is damaged"),
    ],
)
def test_headers_that_make_no_sense(at: int, value: bytes, message: str, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(TargetError, match=message):
        inspect(path)


def test_memory_that_is_there_twice(path: Path) -> None:
    path.write_bytes(path.read_bytes() + MAKERS[path.name]([(HOLE[1] + PAGE, bytes(PAGE))]))
    with pytest.raises(TargetError, match="has the memory at 0x1f000 twice"):
        inspect(path)


def avml_of(path: Path, content: bytes | bytearray) -> DumpFile:
    path.write_bytes(content)
    return inspect(path)


def test_damaged_frames(tmp_path: Path) -> None:
    content = bytearray(avml(BLOCKS))
    content[42] = 0x55  # the kind of the first frame behind the stream's identifier
    with pytest.raises(TargetError, match="no snappy frame begins at its byte 42"):
        avml_of(tmp_path / "frame", content)
    content = bytearray(avml(BLOCKS))
    content[len(content) // 2] ^= 1  # somewhere in the noise
    dump = avml_of(tmp_path / "bit", content)
    with pytest.raises(TargetError, match=r"bytes from [\d,]+ to [\d,]+ can't be unpacked"):
        open_program(dump)


@pytest.mark.parametrize("seed", range(60))
def test_random_damage(seed: int, tmp_path: Path) -> None:
    numbers = np.random.default_rng(seed)
    content = np.frombuffer(avml([(0, MEMORY)]), np.uint8).copy()
    at = numbers.integers(0, len(content) if seed % 2 else 100, numbers.integers(1, 9))
    content[at] = numbers.integers(0, 256, len(at))
    try:
        prog, _ = open_program(avml_of(tmp_path / "avml", content.tobytes()))
    except EstimatorError:
        return
    try:
        found = prog.read(0, len(MEMORY), True)
    except FaultError:
        return
    assert found == MEMORY


def test_padding_in_the_stream(tmp_path: Path) -> None:
    """framing_format.txt: chunks of the kinds 0x80 to 0xfe are passed over."""
    content = avml([(0, MEMORY)])
    padding = b"\xfe" + (1000).to_bytes(3, "little") + bytes(1000)
    dump = avml_of(tmp_path / "avml", content[:42] + padding + content[42:])
    prog, _ = open_program(dump)
    assert prog.read(0, len(MEMORY), True) == MEMORY


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dump = avml_of(tmp_path / "avml", avml(BLOCKS))
    monkeypatch.setitem(sys.modules, "cramjam", None)
    with pytest.raises(TargetError, match="needs cramjam; pip install cramjam"):
        open_program(dump)


def test_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    avml_of(tmp_path / "avml", avml(BLOCKS))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(1 << 30, 1 << 30, 1 << 20))
    with pytest.raises(ResourceError, match=r"unpacks to 0\.0 GiB, .* TMPDIR=DIRECTORY"):
        unpack(tmp_path / "avml")


def test_a_full_disk_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    avml_of(tmp_path / "avml", avml(BLOCKS))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cramjam.snappy.decompress", full)
    with pytest.raises(ResourceError, match="has room for"):
        unpack(tmp_path / "avml")
