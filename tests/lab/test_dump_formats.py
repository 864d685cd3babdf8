"""Every format of one moment's dump gives the same snapshot, or says what is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from drgn import Program

from estimator.arrays import Bytes, Words
from estimator.errors import CannotAnswerError, NoDebugInfoError, TargetError
from estimator.kernel.address_spaces import AddressSpaces
from estimator.kernel.cmdlines import read_cmdlines
from estimator.kernel.collect import collect, collect_core
from estimator.kernel.core import open_core
from estimator.kernel.dump.file import inspect
from estimator.kernel.dump.kdump_headers import KdumpPages
from estimator.kernel.memory import Digest
from estimator.kernel.memory.kdump import Kdump
from estimator.kernel.processes import read_processes
from estimator.kernel.vmas import read_vmas
from estimator.snapshot.flags import Unknown
from estimator.snapshot.snapshot import Snapshot
from tests.lab import dumps
from tests.lab.conftest import findings, lab_kernel
from tests.lab.dumps import SERIES
from tests.lab.makedumpfile import makedumpfile, rearrange
from tests.lab.recompress import FLAGS, recompress
from tests.lab.spoiled import cut_note, with_wrong_note, without_note
from tests.small_pieces import small_pieces

pytestmark = pytest.mark.lab

TABLES = ("processes", "vmas", "mappings", "frames", "stable_nodes", "stable_items")
MINIMAL_MAPPINGS = 24_000  # of the workload
LEFT_OUT = ("has no user pages", "lacks memory of the kernel itself")  # by which slabs it takes
GUEST_LIVES_SECONDS = 3600


@pytest.fixture(scope="session")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    kernel = lab_kernel(SERIES)
    with dumps.shared_directory(
        tmp_path_factory, "crash-dumps", lambda path: dumps.dump_from_crash(kernel, path)
    ) as directory:
        yield directory


@pytest.fixture(scope="session")
def from_elf(moment: Path) -> Snapshot:
    return snapshot_of(moment / "elf")


@pytest.fixture(scope="session")
def from_plain(crashed: Path) -> Snapshot:
    return snapshot_of(crashed / "plain")


def snapshot_of(core: Path) -> Snapshot:
    return collect_core(core, [lab_kernel(SERIES).vmlinux], seed=0)


def assert_same(found: Snapshot, expected: Snapshot) -> None:
    assert len(expected.mappings) > MINIMAL_MAPPINGS
    assert not expected.frames["unknown"].any()
    for table in TABLES:
        pd.testing.assert_frame_equal(getattr(found, table), getattr(expected, table), obj=table)
    assert found.info["unknown"] == expected.info["unknown"]
    assert found.info["ksm"] == expected.info["ksm"]
    assert found.info["kernel"] == expected.info["kernel"]
    assert 0 < found.info["kernel"]["uptime_seconds"] < GUEST_LIVES_SECONDS


@pytest.mark.parametrize("name", ["elf-paging", "kdump-zlib"])
def test_dump_by_qemu(name: str, moment: Path, from_elf: Snapshot) -> None:
    assert_same(snapshot_of(moment / name), from_elf)


@pytest.mark.parametrize("name", ["elf", "elf-paging", "kdump-zlib"])
def test_a_dump_by_qemu_in_small_pieces(name: str, moment: Path, from_elf: Snapshot) -> None:
    with small_pieces():
        found = snapshot_of(moment / name)
    assert_same(found, from_elf)


@pytest.mark.parametrize(("name", "spoil"), [("kdump-zlib", with_wrong_note), ("elf", cut_note)])
def test_a_dump_by_qemu_whose_note_does_not_fit(
    name: str,
    spoil: Callable[[Path, Path], Path],
    moment: Path,
    from_elf: Snapshot,
    tmp_path: Path,
) -> None:
    found = snapshot_of(spoil(moment / name, tmp_path / "vmcore"))
    assert_same(found, from_elf)
    assert "note does not fit the memory; found in memory" in found.info["source"]["warnings"][0]


@pytest.mark.parametrize(
    ("spoil", "said"), [(without_note, "was missing"), (with_wrong_note, "does not fit")]
)
@pytest.mark.parametrize("name", ["zlib-1", "lzo-23"])
def test_a_kdump_file_without_a_right_note(
    name: str,
    spoil: Callable[[Path, Path], Path],
    said: str,
    crashed: Path,
    from_plain: Snapshot,
    tmp_path: Path,
) -> None:
    found = snapshot_of(spoil(crashed / name, tmp_path / "vmcore"))
    assert_same(found, from_plain)
    assert f"the VMCOREINFO note {said}" in found.info["source"]["warnings"][0]


@pytest.mark.parametrize(("cpu", "levels"), [("max", 5), ("max,la57=off", 4)])
def test_levels_of_page_tables(cpu: str, levels: int, moment: Path, tmp_path: Path) -> None:
    kernel = lab_kernel(SERIES)
    if levels == 4:
        dumps.dump_from_qemu(kernel, tmp_path, cpu)
        moment = tmp_path
    target = open_core(moment / "elf", [kernel.vmlinux])
    vmcoreinfo = target.prog["VMCOREINFO"].string_().decode()
    assert f"NUMBER(pgtable_l5_enabled)={int(levels == 5)}\n" in vmcoreinfo
    expected = collect(target, seed=0)
    makedumpfile("-l -d 23", moment / "elf-for-makedumpfile", tmp_path / "lzo")
    makedumpfile("-E -d 16", moment / "elf-for-makedumpfile", tmp_path / "filtered")
    split = [tmp_path / "part1", tmp_path / "part2"]
    makedumpfile("-l -d 1 --splitblock-size 8192 --split", moment / "elf-for-makedumpfile", *split)
    others = (moment / "elf-paging", moment / "kdump-zlib", tmp_path / "lzo", tmp_path / "filtered")
    for core in (*others, split):
        assert_same(collect_core(core, [kernel.vmlinux], seed=0), expected)


def test_dump_that_does_not_say_its_architecture(
    moment: Path, from_elf: Snapshot, tmp_path: Path
) -> None:
    rearrange(moment / "kdump-zlib", tmp_path / "vmcore")
    with (tmp_path / "vmcore").open("r+b") as file:
        file.seek(12 + 4 * 65)  # utsname.machine
        assert file.read(6) == b"x86_64"
        file.seek(12 + 4 * 65)
        file.write(bytes(6))
    symbols = [lab_kernel(SERIES).vmlinux]
    with pytest.raises(TargetError, match="architecture it is; try: --architecture x86_64"):
        collect_core(tmp_path / "vmcore", symbols)
    found = collect_core(tmp_path / "vmcore", symbols, architecture="x86_64", seed=0)
    assert_same(found, from_elf)


@pytest.mark.parametrize("codec", ["lzo", "snappy"])
def test_dump_by_a_qemu_that_debian_does_not_build(
    codec: str, moment: Path, from_elf: Snapshot, tmp_path: Path
) -> None:
    """QEMU's own headers, without the architecture where libkdumpfile looks for it."""
    rearrange(moment / "kdump-zlib", tmp_path / "zlib")
    assert_same(snapshot_of(tmp_path / "zlib"), from_elf)
    recompress(tmp_path / "zlib", tmp_path / codec, codec)
    assert_compressed(tmp_path / codec, codec, from_elf)
    assert_same(snapshot_of(tmp_path / codec), from_elf)


@pytest.mark.parametrize("codec", ["snappy", "zstd"])
def test_dump_by_a_makedumpfile_that_debian_does_not_build(
    codec: str, moment: Path, from_elf: Snapshot, tmp_path: Path
) -> None:
    makedumpfile("-c -d 1", moment / "elf-for-makedumpfile", tmp_path / "zlib")
    recompress(tmp_path / "zlib", tmp_path / codec, codec)
    assert_compressed(tmp_path / codec, codec, from_elf)
    assert_same(snapshot_of(tmp_path / codec), from_elf)


def assert_compressed(core: Path, codec: str, snapshot: Snapshot) -> None:
    """Many of the anonymous frames are stored compressed with ``codec``."""
    header = inspect(core).kdump
    assert header is not None
    assert header.compression == codec
    pages = KdumpPages(core, header)
    numbers = [pages._rank(pfn) for pfn in snapshot.frames["pfn"].tolist()]
    flags = pages._describe(np.array(numbers))["flags"]
    assert set(flags.tolist()) == {0, FLAGS[codec]}
    assert (flags == FLAGS[codec]).sum() > len(flags) / 10


@pytest.mark.parametrize(
    "options",
    [
        *("-c -d 0", "-l -d 1", "-l -d 2", "-l -d 4", "-c -d 16", "-l -d 17", "-l -d 23"),
        *("-E -d 0", "-E -d 16", "-F -c -d 17"),
    ],
)
def test_dump_by_makedumpfile(
    options: str, moment: Path, from_elf: Snapshot, tmp_path: Path
) -> None:
    makedumpfile(options, moment / "elf-for-makedumpfile", tmp_path / "vmcore")
    assert_same(snapshot_of(tmp_path / "vmcore"), from_elf)


def test_zeroes_left_out_of_elf_are_unknown(
    moment: Path, from_elf: Snapshot, tmp_path: Path
) -> None:
    makedumpfile("-E -d 1", moment / "elf-for-makedumpfile", tmp_path / "vmcore")
    found = snapshot_of(tmp_path / "vmcore").frames
    excluded = found["unknown"] == Unknown.EXCLUDED
    assert excluded.sum() >= 512
    assert (found["unknown"][~excluded] == Unknown.HASHED).all()
    assert found["hash"][~excluded].equals(from_elf.frames["hash"][~excluded])
    assert found["hash"][excluded].isna().all()


@pytest.mark.parametrize("options", ["-l -d 8", "-c -d 31", "-F -l -d 31"])
def test_without_user_pages(options: str, moment: Path, tmp_path: Path) -> None:
    """By a makedumpfile older than the kernel, which takes some slabs too for user pages."""
    makedumpfile(options, moment / "elf-for-makedumpfile", tmp_path / "vmcore")
    said = f"({'|'.join(LEFT_OUT)}).*makedumpfile -l -d 23"
    with pytest.raises(CannotAnswerError, match=said) as caught:
        snapshot_of(tmp_path / "vmcore")
    assert "kdump-tools" in str(caught.value.hint)


def test_user_pages_filtered_by_a_makedumpfile_older_than_the_kernel(
    moment: Path, from_elf: Snapshot, tmp_path: Path
) -> None:
    makedumpfile("-E -d 31", moment / "elf-for-makedumpfile", tmp_path / "vmcore")
    try:
        frames = snapshot_of(tmp_path / "vmcore").frames
    except CannotAnswerError:
        return  # it left out most
    known = frames["unknown"] == Unknown.HASHED
    assert not known.all()
    assert frames["hash"][known].equals(from_elf.frames["hash"][known])


@pytest.mark.parametrize("name", ["zlib-1", "lzo-23", "elf-16", "flattened-16"])
def test_dump_by_a_crash_kernel(name: str, crashed: Path, from_plain: Snapshot) -> None:
    assert_same(snapshot_of(crashed / name), from_plain)


@pytest.mark.parametrize("name", ["lzo-23", "flattened-16"])
def test_a_dump_by_a_crash_kernel_in_small_pieces(
    name: str, crashed: Path, from_plain: Snapshot
) -> None:
    with small_pieces():
        found = snapshot_of(crashed / name)
    assert_same(found, from_plain)


@pytest.mark.parametrize("name", ["zlib-1", "elf-16"])
def test_a_collection_leaves_no_file_open(name: str, crashed: Path) -> None:
    snapshot_of(crashed / name)
    before, maps = os.listdir("/proc/self/fd"), Path("/proc/self/maps").read_text()
    snapshot_of(crashed / name)
    assert os.listdir("/proc/self/fd") == before
    assert str(crashed / name) not in maps


class Listing(Kdump):
    """Notes the frames that are decompressed."""

    def __init__(self, prog: Program, files: Sequence[KdumpPages]) -> None:
        super().__init__(prog, files)
        self.decompressed: list[int] = []

    def frames(self, pfns: Words) -> tuple[Bytes, Bytes]:
        self.decompressed += pfns.tolist()
        return super().frames(pfns)

    def digests(self, pfns: Words, digest: Digest) -> tuple[Words, Bytes]:
        self.decompressed += pfns.tolist()
        return super().digests(pfns, digest)


def test_what_is_not_needed_is_not_decompressed(
    crashed: Path, from_plain: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page tables and anonymous frames, each once; not the page cache that processes map.

    What leads to the command lines is read once more.
    """
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})  # no workers that note nothing
    dump = inspect(crashed / "zlib-1")
    assert dump.kdump is not None
    target = open_core(dump.path, [lab_kernel(SERIES).vmlinux])
    memory = Listing(target.prog, [KdumpPages(dump.path, dump.kdump)])
    assert_same(collect(replace(target, memory=memory), seed=0), from_plain)
    read, times = np.unique(memory.decompressed, return_counts=True)
    mms = read_processes(target.prog, target.memory)
    for_cmdlines = Listing(target.prog, [KdumpPages(dump.path, dump.kdump)])
    read_cmdlines(target.prog, for_cmdlines, mms.structs)
    twice = np.isin(read, for_cmdlines.decompressed)
    assert (times[~twice] == 1).all()
    assert twice.sum() < 20 * len(mms.structs)
    anonymous = from_plain.frames["pfn"].to_numpy()
    assert np.isin(anonymous, read).all()
    vmas = read_vmas(target.prog, target.memory, mms)
    mapped = AddressSpaces(target.prog, target.memory, mms, vmas).walk(lambda batches: None)
    page_cache = np.setdiff1d(mapped.pfn[:], anonymous)
    assert len(page_cache)
    assert not np.isin(page_cache, read).any()


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_all_parts_of_a_split_dump(
    order: tuple[int, ...], crashed: Path, from_plain: Snapshot
) -> None:
    parts = [crashed / f"split-{number}" for number in order]
    counts = [pages._rank(int(pages._end_pfn)) - pages._first for pages in pages_of(parts)]
    assert min(counts) > sum(counts) / 5  # each holds its share
    assert_same(collect_core(parts, [lab_kernel(SERIES).vmlinux], seed=0), from_plain)


def test_a_split_dump_with_a_wrong_note_is_refused(crashed: Path, tmp_path: Path) -> None:
    names = [f"split-{number}" for number in (1, 2, 3)]
    parts = [with_wrong_note(crashed / name, tmp_path / name) for name in names]
    with pytest.raises(TargetError, match=r"note of .*split-1.* does not fit its memory"):
        collect_core(parts, [lab_kernel(SERIES).vmlinux], seed=0)


def test_split_dump_is_reassembled(crashed: Path, from_plain: Snapshot, tmp_path: Path) -> None:
    parts = [crashed / f"split-{number}" for number in (1, 2, 3)]
    for part in parts:
        with pytest.raises(CannotAnswerError, match="makedumpfile --reassemble"):
            snapshot_of(part)
    makedumpfile("--reassemble", parts[0], *parts[1:], tmp_path / "vmcore")
    assert_same(snapshot_of(tmp_path / "vmcore"), from_plain)


def test_damaged_pages_in_the_parts(crashed: Path, from_plain: Snapshot, tmp_path: Path) -> None:
    parts = [tmp_path / f"split-{number}" for number in (1, 2, 3)]
    lost = from_plain.frames["pfn"].to_numpy()[7::50]
    for part in parts:
        shutil.copyfile(crashed / part.name, part)
    for part, pages in zip(parts, pages_of(parts), strict=True):
        with part.open("r+b") as file:
            for pfn in lost[pages.holds(lost)].tolist():
                descriptor = pages._descriptors + 24 * (pages._rank(pfn) - pages._first)
                file.seek(descriptor + 8)
                file.write(bytes(4))  # its size
    frames = collect_core(parts, [lab_kernel(SERIES).vmlinux], seed=0).frames
    unreadable = frames["unknown"] == Unknown.UNREADABLE
    assert frames["pfn"][unreadable].tolist() == lost.tolist()
    assert frames["hash"][~unreadable].equals(from_plain.frames["hash"][~unreadable])


def pages_of(parts: Sequence[Path]) -> list[KdumpPages]:
    """Of each part of a split dump."""
    headers = [(part, inspect(part).kdump) for part in parts]
    return [KdumpPages(part, header) for part, header in headers if header is not None]


def test_flattened_dump_is_rearranged(crashed: Path, from_plain: Snapshot, tmp_path: Path) -> None:
    rearrange(crashed / "flattened-16", tmp_path / "vmcore")
    assert_same(snapshot_of(tmp_path / "vmcore"), from_plain)


def test_flattened_elf_is_refused(moment: Path, tmp_path: Path) -> None:
    makedumpfile("-F -E -d 17", moment / "elf-for-makedumpfile", tmp_path / "vmcore")
    with pytest.raises(TargetError, match="makedumpfile -R"):
        snapshot_of(tmp_path / "vmcore")


def test_vmlinux_of_another_build_is_refused(moment: Path) -> None:
    with pytest.raises(NoDebugInfoError, match="is not the vmlinux of this kernel"):
        collect_core(moment / "elf", [lab_kernel("6.1").vmlinux])


def check(*options: Path | str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code and findings by subject of ``check``."""
    code, found = findings(*options)
    return code, {finding["subject"]: finding for finding in found}


def test_check_says_what_to_expect(moment: Path, from_elf: Snapshot, tmp_path: Path) -> None:
    makedumpfile("-l -d 17", moment / "elf-for-makedumpfile", tmp_path / "vmcore")
    code, found = check("--core", tmp_path / "vmcore", "--symbols", lab_kernel(SERIES).vmlinux)
    assert code == 0
    assert {finding["status"] for finding in found.values()} == {"ok"}
    assert found["dump level"]["facts"]["dump_level"] == 17
    assert found["kernel"]["facts"]["release"] == lab_kernel(SERIES).release
    assert found["kernel"]["facts"]["build_id"] == from_elf.info["kernel"]["build_id"]
    assert found["memory"]["facts"]["anonymous_bytes"] == 4096 * len(from_elf.frames)
    assert found["coverage"]["facts"]["coverage"] == 1.0


def test_check_of_a_split_dump(crashed: Path, from_plain: Snapshot) -> None:
    cores = [option for n in (2, 3, 1) for option in ("--core", crashed / f"split-{n}")]
    symbols = ("--symbols", lab_kernel(SERIES).vmlinux)
    code, found = check(*cores, *symbols)
    assert code == 0
    assert {finding["status"] for finding in found.values()} == {"ok"}
    assert "in 3 files" in found["dump"]["text"]
    assert found["memory"]["facts"]["anonymous_bytes"] == 4096 * len(from_plain.frames)
    code, found = check(*cores[2:], *symbols)
    assert code == 5
    assert "without the frames" in found["dump"]["text"]


def test_check_of_a_dump_that_cannot_answer(moment: Path, tmp_path: Path) -> None:
    makedumpfile("-l -d 31", moment / "elf-for-makedumpfile", tmp_path / "vmcore")
    code, found = check("--core", tmp_path / "vmcore")
    assert code == 5
    assert found["dump level"]["facts"]["dump_level"] == 31
    assert any(said in found["memory"]["text"] for said in LEFT_OUT)
    assert "makedumpfile -l -d 23" in found["memory"]["hint"]


def test_check_says_where_a_vmlinux_was_looked_for(moment: Path) -> None:
    code, found = check("--core", moment / "elf", "--symbols", lab_kernel("6.1").vmlinux)
    assert code == 4
    assert "does not fit" in found["looked for"]["text"]
    assert found["kernel"]["facts"]["build_id"] in found["symbols"]["text"]
