"""The files of a split dump are one dump, if they are all of it."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from estimator.errors import CannotAnswerError, EstimatorError, TargetError, UsageError
from estimator.kernel.dump.kdump_headers import KdumpPages
from estimator.kernel.dump.split import inspect_dump, refuse_missing_parts
from estimator.snapshot.flags import Unknown
from tests.test_dumpfile import BLOCK, DUMPED, PFNS, kdump

RANGES = ((0, 320), (320, 701), (701, PFNS))


def written(directory: Path, *contents: bytes) -> list[Path]:
    paths = [directory / f"part{number}" for number in range(1, len(contents) + 1)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def parts(*ranges: tuple[int, int]) -> list[bytes]:
    return [kdump(split=split) for split in ranges]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_all_parts_in_any_order(order: tuple[int, ...], tmp_path: Path) -> None:
    paths = written(tmp_path, *parts(*RANGES))
    dump = inspect_dump([paths[number] for number in order])
    assert [part.path for part in dump.parts] == paths
    assert (dump.cut, dump.missing_bytes) == ("", 0)
    refuse_missing_parts(dump)
    assert dump.size_bytes == sum(path.stat().st_size for path in paths)


@pytest.mark.parametrize("split", RANGES)
def test_a_part_knows_its_own_pages(split: tuple[int, int], tmp_path: Path) -> None:
    """Its descriptors begin with its first page, though its bitmaps are of the whole dump."""
    content = bytearray(kdump(split=split))
    second_descriptor = 4 * BLOCK + 24
    content[second_descriptor + 8 : second_descriptor + 12] = bytes(4)  # the size
    others = [kdump(split=other) for other in RANGES if other != split]
    dump = inspect_dump(written(tmp_path, bytes(content), *others))
    (part,) = (part for part in dump.parts if part.path.name == "part1")
    assert part.kdump is not None
    pages = KdumpPages(part.path, part.kdump)
    own = [pfn for pfn in DUMPED if split[0] <= pfn < split[1]]
    assert pages.holds(np.array(DUMPED, np.uint64)).sum() == len(own)
    unknown = pages.unknown(np.array(own, np.uint64))
    assert unknown[1] == Unknown.UNREADABLE
    assert not np.delete(unknown, 1).any()


def test_a_part_that_is_cut_off(tmp_path: Path) -> None:
    first, second, third = parts(*RANGES)
    dump = inspect_dump(written(tmp_path, first, second[:-250], third))
    assert dump.missing_bytes == 250
    assert "part2 is cut off" in dump.cut


def test_a_part_without_pages(tmp_path: Path) -> None:
    """makedumpfile splits at whole GiB: of a small machine one file holds all."""
    paths = written(tmp_path, *parts((0, PFNS), (PFNS, PFNS), (PFNS, PFNS)))
    for given in (paths, paths[:1]):
        refuse_missing_parts(inspect_dump(given))


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ((0,), "0x140 to 0x3e7"),
        ((1,), "0x0 to 0x13f, 0x2bd to 0x3e7"),
        ((0, 2), "0x140 to 0x2bc"),
        ((2, 1), "0x0 to 0x13f"),
    ],
)
def test_a_part_is_missing(given: tuple[int, ...], missing: str, tmp_path: Path) -> None:
    paths = written(tmp_path, *parts(*RANGES))
    hint = "--core PART1 --core PART2 .*makedumpfile --reassemble"
    with pytest.raises(CannotAnswerError, match=f"without the frames {missing}; .*{hint}"):
        refuse_missing_parts(inspect_dump([paths[number] for number in given]))


@pytest.mark.parametrize(
    "ranges", [((0, 500), (0, 500), (500, PFNS)), ((0, 501), (500, PFNS)), ((0, PFNS), (0, 100))]
)
def test_parts_overlap(ranges: tuple[tuple[int, int], ...], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="overlap: both have the frame"):
        inspect_dump(written(tmp_path, *parts(*ranges)))


@pytest.mark.parametrize(
    "other",
    [
        kdump(split=(500, PFNS), notes=b"CRASHTIME=2"),
        kdump(17, split=(500, PFNS)),
        kdump(split=(500, PFNS), machine=b"aarch64"),
    ],
    ids=["another time", "another dump level", "another system"],
)
def test_parts_of_different_dumps(other: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"part1 and .*part2 are parts of different dumps"):
        inspect_dump(written(tmp_path, kdump(split=(0, 500)), other))


@pytest.mark.parametrize("whole", [kdump(), kdump(31)])
def test_with_a_dump_that_is_not_split(whole: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="part2 is no part of a split dump"):
        inspect_dump(written(tmp_path, kdump(split=(0, PFNS)), whole))
    with pytest.raises(UsageError, match="part1 is no part of a split dump"):
        inspect_dump(written(tmp_path, whole, whole))


@pytest.mark.parametrize("split", [(500, 400), (0, PFNS + 1)])
def test_a_range_that_makes_no_sense(split: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="contradict each other"):
        inspect_dump(written(tmp_path, kdump(split=split)))


@pytest.mark.parametrize("seed", range(100))
def test_random_headers(seed: int, tmp_path: Path) -> None:
    numbers = np.random.default_rng(seed)
    contents = parts(*RANGES)
    damaged = np.frombuffer(contents[seed % 3], np.uint8).copy()
    at = numbers.integers(BLOCK if seed % 2 else 8, 5 * BLOCK, numbers.integers(1, 30))
    damaged[at] = numbers.integers(0, 256, len(at))
    contents[seed % 3] = damaged.tobytes()
    try:
        dump = inspect_dump(written(tmp_path, *contents))
        for part in dump.parts:
            assert part.kdump is not None
            pfns = np.array(DUMPED, np.uint64)
            assert len(KdumpPages(part.path, part.kdump).unknown(pfns)) == len(pfns)
    except EstimatorError:
        pass


def test_command_line_names_what_is_missing(tmp_path: Path) -> None:
    paths = written(tmp_path, *parts(*RANGES))
    command = [sys.executable, "-m", "estimator", "run", "--core", str(paths[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.count("\n") == 1
    command += ["--core", str(paths[2])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert f"{paths[0]}, {paths[2]}: only a part" in done.stderr
    assert "0x140 to 0x2bc" in done.stderr
