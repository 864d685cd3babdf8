"""Raw memory in pieces: what is named, what can't be, and what is wrong with an address."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drgn import Architecture, FaultError, Platform, Program
from hypothesis import given
from hypothesis import strategies as st

from estimator.arrays import Words
from estimator.errors import EstimatorError, NoDebugInfoError, TargetError, UsageError
from estimator.kernel import core, memory
from estimator.kernel.core import open_program
from estimator.kernel.dump.find_vmcoreinfo import find_vmcoreinfo
from estimator.kernel.dump.memory_only import open_memory
from estimator.kernel.dump.raw import Piece, piece_of, pieces_of
from estimator.kernel.dump.split import inspect_dump
from estimator.kernel.memory.files import MappedFiles
from estimator.kernel.memory.intervals import Intervals
from estimator.kernel.memory_map import missing_memory
from estimator.snapshot.flags import Unknown
from tests.raw_memory import lime
from tests.test_dumpfile import kdump
from tests.test_find_vmcoreinfo import PAGE, text_of
from tests.test_memory import page

MIB, GIB = 1 << 20, 1 << 30
RELEASE = "6.12.1-amd64"


@pytest.mark.parametrize(
    ("given", "piece"),
    [
        ("mem@0", Piece(Path("mem"), 0)),
        ("mem@0x100000000", Piece(Path("mem"), 4 * GIB)),
        ("mem@0XABC000", Piece(Path("mem"), 0xABC000)),
        ("a/b@c.mem@4G:2g", Piece(Path("a/b@c.mem"), 4 * GIB, 2 * GIB)),
        ("mem@0:0+3072M", Piece(Path("mem"), 0, 0, 3 * GIB)),
        ("mem@1T:64K+4096", Piece(Path("mem"), 1 << 40, 65536, 4096)),
        ("mem", None),
        ("me@home", None),  # no file is called "me": it does not exist
        ("@0", None),
    ],
)
def test_pieces_as_they_are_named(given: str, piece: Piece | None) -> None:
    assert piece_of(Path(given)) == piece


@given(st.integers(0, 1 << 52), st.integers(0, 1 << 52), st.none() | st.integers(1, 1 << 52))
def test_a_piece_is_read_as_it_is_written(address: int, offset: int, size: int | None) -> None:
    piece = Piece(Path("some mem"), address, offset, size)
    assert piece_of(Path(str(piece))) == piece


def test_a_file_that_exists_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "vmcore@0"
    path.write_bytes(kdump())
    assert piece_of(path) is None
    assert inspect_dump([path]).format == "kdump"


@pytest.mark.parametrize("address", ["4X", "0x", "-1", "home", "0:zero", "0:0+", "0:0+0y1"])
def test_numbers_that_are_none(address: str, tmp_path: Path) -> None:
    (tmp_path / "mem").write_bytes(bytes(PAGE))
    error = refused(tmp_path / f"mem@{address}")
    if address == "0:0+":  # no piece at all
        assert isinstance(error, TargetError)
        return
    assert isinstance(error, UsageError)
    assert "is no number; a piece of memory is FILE@ADDRESS[:OFFSET[+SIZE]]" in error.message
    assert f"for example {tmp_path / 'mem'}@0 " in str(error.hint)


def refused(*given: Path) -> EstimatorError:
    with pytest.raises(EstimatorError) as raised:
        inspect_dump(given)
    return raised.value


@pytest.mark.parametrize(
    ("pieces", "kind", "message"),
    [
        (["none@0"], TargetError, "none does not exist"),
        (["empty@0"], TargetError, "empty is empty"),
        ([".@0"], TargetError, "is a directory"),
        (["two@0x800"], UsageError, "its address is no multiple of 4096; a file with a header"),
        (["two@0:0x1000+2M"], UsageError, r"ends beyond the end .* 0x200000 bytes; was it copied"),
        (["two@0:3M"], UsageError, "ends beyond the end of the file"),
        (["two@0:0+0"], UsageError, "no machine has memory there"),
        (["two@8192T"], UsageError, "no machine has memory there"),
        (["one@0", "two@1M", "other@2M"], UsageError, "both have the memory at 0x200000"),
        (["two@4G", "two@0"], UsageError, "both have byte 0x0 of the file; where does each piece"),
        (["two@0:0+1M", "two@4G:0xff000"], UsageError, "both have byte 0xff000 of the file"),
        (["two@0", "kdump"], UsageError, "two@0x0 is a piece of raw memory, and not all"),
        (["kdump@0"], UsageError, r"has headers of its own \(kdump\); try: --core .*kdump$"),
        (["lime@0"], UsageError, r"headers of its own \(lime\); try: --core .*lime$"),
        (["gzip@0"], TargetError, "packed as a whole"),
    ],
)
def test_pieces_that_make_no_memory(
    pieces: list[str], kind: type[EstimatorError], message: str, tmp_path: Path
) -> None:
    contents = {"empty": b"", "kdump": kdump(), "lime": lime([(0, b"x")]), "gzip": b"\x1f\x8b\x08"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name, size in (("one", MIB), ("two", 2 * MIB), ("other", MIB)):
        (tmp_path / name).write_bytes(bytes(size))
    with pytest.raises(kind, match=message):
        inspect_dump([tmp_path / piece for piece in pieces])


def test_a_file_without_an_address_is_told_of_it(tmp_path: Path) -> None:
    (tmp_path / "mem").write_bytes(bytes(PAGE))
    error = refused(tmp_path / "mem")
    assert error.exit_code == 3
    assert "has no header that is known" in error.message
    assert f"raw physical memory? then: --core {tmp_path / 'mem'}@0" in str(error.hint)


def vmcoreinfo(uts_physical: int) -> bytes:
    """With what drgn needs."""
    more = b"OFFSET(uts_namespace.name)=4\nSYMBOL(swapper_pg_dir)=ffffffff82000000\n"
    return text_of(RELEASE, uts_physical) + more


def kernel(pages: int = 64, *, base: int = 0, info: int = 3 * PAGE, name: int = 9 * PAGE) -> bytes:
    """Memory from the physical address ``base`` on, with VMCOREINFO and init_uts_ns at places."""
    text = vmcoreinfo(base + name + 64)
    utsname = b"".join(field.ljust(65, b"\0") for field in (b"Linux", b"host", RELEASE.encode()))
    content = bytearray(pages * PAGE)
    content[info : info + len(text)] = text
    content[name + 64 + 4 : name + 64 + 4 + len(utsname)] = utsname
    log = f"Linux version {RELEASE}\0".encode()  # as elsewhere in memory
    content[PAGE : PAGE + len(log)] = log
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "given", "right"),
    [
        (kernel(base=16 * MIB), "0", "0x1000000"),
        (kernel(), "1M", "0x0"),
        (kernel(base=16 * MIB), "16M:0x1000", "0x1001000:0x1000"),
        (bytes(12345) + kernel(), "0", "0x0:0x3039"),
        (kernel(base=16 * MIB) + bytes(8 * PAGE), "0:0+0x40000", "0x1000000:0x0+0x40000"),
    ],
)
def test_the_right_address_is_told(content: bytes, given: str, right: str, tmp_path: Path) -> None:
    path = tmp_path / "mem"
    path.write_bytes(content)
    dump = inspect_dump([Path(f"{path}@{given}")])
    assert find_vmcoreinfo(dump) is None
    with pytest.raises(UsageError) as raised:
        open_program(dump)
    at = content.find(b"OSRELEASE")
    assert f"VMCOREINFO of kernel {RELEASE} is in {path} at byte {at:#x}" in raised.value.message
    assert raised.value.hint == f"try: --core {path}@{right}"
    found = find_vmcoreinfo(inspect_dump([Path(f"{path}@{right}")]))
    assert found is not None


def test_the_right_address_of_one_of_two_files(tmp_path: Path) -> None:
    """VMCOREINFO is in one, the kernel in the other."""
    content = kernel(base=16 * MIB)
    (tmp_path / "low").write_bytes(content[: 6 * PAGE])
    (tmp_path / "high").write_bytes(content[6 * PAGE :])
    with pytest.raises(UsageError) as raised:
        open_program(inspect_dump([tmp_path / "low@16M", tmp_path / "high@0x1007000"]))
    right = f"{tmp_path / 'high'}@0x1006000"
    assert raised.value.hint == f"try: --core {right}, and the other pieces as before"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(64 * PAGE), "no Linux kernel of x86_64 was found .* neither packed nor encrypted"),
        (kernel().replace(b"Linux\0", b"Minix\0"), "is not at .* every piece of memory"),
    ],
)
def test_memory_without_a_kernel(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "mem").write_bytes(content)
    with pytest.raises(EstimatorError, match=message):
        open_program(inspect_dump([tmp_path / "mem@16M"]))


def test_one_line_and_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "mem").write_bytes(kernel())
    for name, code in (("mem", 3), ("mem@1M", 2), ("mem@0x10", 2), ("other@0", 3)):
        command = [sys.executable, "-m", "estimator", "run", "--core", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.count("\n") == 1


def test_what_is_in_no_piece_is_no_memory(tmp_path: Path) -> None:
    """A kernel in the upper part of the file, behind a hole."""
    content = kernel(base=4 * GIB)
    (tmp_path / "mem").write_bytes(bytes(2 * PAGE) + content)
    pieces = [tmp_path / "mem@0:0+8K", tmp_path / "mem@4G:8K"]
    dump = inspect_dump(pieces)
    assert pieces_of(dump) == [
        Piece(tmp_path / "mem", 0, 0, 2 * PAGE),
        Piece(tmp_path / "mem", 4 * GIB, 2 * PAGE),
    ]
    found = find_vmcoreinfo(dump)
    assert found is not None
    assert found.address == 4 * GIB + 3 * PAGE
    prog = open_memory(dump, Platform(Architecture.X86_64), found.text)
    assert prog["UTS_RELEASE"].string_() == RELEASE.encode()
    assert prog.read(4 * GIB, len(content), True) == content
    assert prog.read(PAGE, PAGE, True) == bytes(PAGE)
    for hole in (2 * PAGE, 4 * GIB - 8, 4 * GIB + len(content)):
        with pytest.raises(FaultError):
            prog.read(hole, 16, True)


def test_a_file_that_gets_shorter_is_no_memory_there(tmp_path: Path) -> None:
    (tmp_path / "mem").write_bytes(kernel())
    dump = inspect_dump([tmp_path / "mem@0"])
    with (tmp_path / "mem").open("r+b") as file:
        file.truncate(60 * PAGE)
    prog = open_memory(dump, Platform(Architecture.X86_64), vmcoreinfo(0))
    assert prog.read(59 * PAGE, PAGE, True) == bytes(PAGE)
    with pytest.raises(FaultError, match="beyond the end of the file"):
        prog.read(60 * PAGE, PAGE, True)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MappedFiles:
    """Two files: frames 10 to 19 in the one, 20 to 29 and 40 to 49 in the other."""
    (tmp_path / "a").write_bytes(b"".join(page(n) for n in range(10, 20)))
    (tmp_path / "b").write_bytes(b"".join(page(n) for n in [*range(40, 50), *range(20, 30)]))
    pieces = ("a@40K", "b@160K:0+40K", "b@80K:40K")
    dump = inspect_dump([tmp_path / piece for piece in pieces])

    class At0:
        def value_(self) -> int:
            return 0

    monkeypatch.setattr(memory, "phys_to_virt", lambda prog, address: At0())
    prog = open_memory(dump, Platform(Architecture.X86_64), vmcoreinfo(0))
    return MappedFiles(prog, dump.files)


def pfns(*numbers: int) -> Words:
    return np.array(numbers, np.uint64)


ASKED = pfns(45, 10, 19, 20, 29, 30, 9, 49, 50, 11)
THERE = [True, True, True, True, True, False, False, True, False, True]


def test_frames_of_several_files(files: MappedFiles) -> None:
    reasons = [Unknown.HASHED if there else Unknown.UNREADABLE for there in THERE]
    data, unknown = files.frames(ASKED)
    assert unknown.tolist() == files.unknown(ASKED).tolist() == reasons
    first = data.view(np.uint64)[:, 0]
    assert first[THERE].tolist() == ASKED[THERE].tolist()
    found, unknown = files.digests(
        ASKED, lambda contents: [int.from_bytes(content[:8], "little") for content in contents]
    )
    assert unknown.tolist() == reasons
    assert found.tolist() == np.where(THERE, ASKED, 0).tolist()
    files.close()


def test_words_and_structs_of_several_files(files: MappedFiles) -> None:
    addresses = (ASKED << np.uint64(12)) + np.uint64(16)
    words, ok = files.words(addresses)
    assert (words.tolist(), ok.tolist()) == (np.where(THERE, ASKED, 0).tolist(), THERE)
    dtype = np.dtype({"names": ["a", "b"], "formats": ["<u8", "<u8"], "offsets": [0, 64]})
    structs, ok = files.structs(addresses, dtype)
    assert ok.tolist() == THERE
    assert structs["b"][THERE].tolist() == ASKED[THERE].tolist()
    across = pfns((19 << 12) + 4096 - 16)  # from one file into the other: by drgn, which finds none
    assert files.unknown(pfns(19, 20)).tolist() == [0, 0]
    structs, ok = files.structs(across, dtype)
    assert ok.tolist() == [False]


@pytest.mark.parametrize(
    ("missing", "symbols", "kind"),
    [
        ("9 MiB of this kernel's memory are in no piece", [], TargetError),
        ("9 MiB of this kernel's memory are in no piece", [Path("vmlinux")], NoDebugInfoError),
        ("", [], NoDebugInfoError),
    ],
)
def test_symbols_that_lie_in_no_piece(
    missing: str,
    symbols: list[Path],
    kind: type[EstimatorError],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise NoDebugInfoError("the types of this kernel can't be read")

    monkeypatch.setattr(core, "load_symbols", fail)
    (tmp_path / "mem").write_bytes(kernel())
    dump = replace(inspect_dump([tmp_path / "mem@0"]), missing_memory=missing)
    with pytest.raises(kind) as raised:
        core.load_symbols_of(dump, Program(), symbols)
    assert missing in raised.value.message or kind is NoDebugInfoError


def memory_of(*ranges: tuple[int, int]) -> Intervals:
    start, end = np.array(ranges, np.uint64).T
    return Intervals(start, end)


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


Q35 = memory_of((0, MIB), (MIB, 2 * GIB - 144 * 1024), (4 * GIB, 8 * GIB))  # with 6 GiB


@pytest.mark.parametrize(
    ("pieces", "lower", "upper"),
    [
        (["@0"], "@0x0:0x0+0x80000000", "@0x100000000:0x80000000"),
        (["@2G"], "@0x0:0x0+0x80000000", "@0x100000000:0x80000000"),
        (["@0:0+3G", "@4G:3G"], "@0x0:0x0+0x80000000", "@0x100000000:0x80000000"),
        (["@0:0+1G", "@4G:1G"], "@0x0:0x0+0x80000000", "@0x100000000:0x80000000"),
        (["@0:4096"], "@0x0:0x1000+0x7ffff000", "@0x100000000:0x80000000"),
        (["@0:0+0x17ffff000"], "@0x0:0x0+0x7ffff000", "@0x100000000:0x7ffff000+0x100000000"),
    ],
)
def test_the_hole_that_was_forgotten(
    pieces: list[str], lower: str, upper: str, tmp_path: Path
) -> None:
    """The end of the file is the end of the memory, wherever firmware has taken some."""
    path = sparse(tmp_path / "mem", 6 * GIB)
    dump = inspect_dump([Path(f"{path}{piece}") for piece in pieces])
    with pytest.raises(UsageError, match="this machine has a hole in its memory from") as raised:
        missing_memory(dump, Q35)
    assert raised.value.hint == f"try: --core {path}{lower} --core {path}{upper}"


def test_the_pieces_around_the_hole_are_all(tmp_path: Path) -> None:
    path = sparse(tmp_path / "mem", 6 * GIB)
    pieces = [Path(f"{path}@0:0+2G"), Path(f"{path}@4G:2G")]
    assert missing_memory(inspect_dump(pieces), Q35) == ""
    warning = missing_memory(inspect_dump(pieces[:1]), Q35)
    assert (
        warning == "4,096 MiB of this kernel's memory are in no piece: 0x100000000 to 0x1ffffffff"
    )
    assert missing_memory(inspect_dump(pieces[:1]), None) == ""


def test_the_hole_in_the_first_of_two_files(tmp_path: Path) -> None:
    first, second = sparse(tmp_path / "first", 3 * GIB), sparse(tmp_path / "second", 3 * GIB)
    second_piece = Path(f"{second}@5G")
    with pytest.raises(UsageError) as raised:
        missing_memory(inspect_dump([Path(f"{first}@0"), second_piece]), Q35)
    assert raised.value.message == (
        "this machine has no memory at 0x7ffdc000 to 0xbfffffff, as named, "
        "but at 0x100000000 to 0x13fffffff"
    )
    pieces = [Path(f"{first}@0:0+2G"), Path(f"{first}@4G:2G"), second_piece]
    assert missing_memory(inspect_dump(pieces), Q35) == ""


def test_memory_that_is_not_saved(tmp_path: Path) -> None:
    path = sparse(tmp_path / "mem", GIB - MIB)
    there = memory_of((0, MIB), (MIB, GIB))
    assert missing_memory(inspect_dump([Path(f"{path}@1M")]), there) == ""
    warning = missing_memory(inspect_dump([Path(f"{path}@1M:4096")]), there)
    assert warning.endswith("in no piece: 0x3ffff000 to 0x3fffffff")
