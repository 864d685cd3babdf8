"""Raw memory, LiME and AVML of one moment give the snapshot that an ELF dump of it gives."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pytest

from estimator.errors import UsageError
from estimator.kernel.collect import collect_core
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.report.as_json import prediction_json
from estimator.snapshot.flags import Unknown
from estimator.snapshot.snapshot import Snapshot
from tests.lab.conftest import again, findings, lab_kernel
from tests.lab.dumps import stopped_guest
from tests.lab.workload import Workload
from tests.raw_memory import avml, lime
from tests.small_pieces import small_pieces

pytestmark = pytest.mark.lab

SERIES = ("7.3", "6.1")
MIB = 1 << 20
SIZE = 512 * MIB
TABLES = ("processes", "vmas", "mappings", "frames", "stable_nodes", "stable_items")
WORKLOAD = Workload(
    "raw",
    (
        "map data 3000\nadvise data mergeable\nfill data list 1\nfork 4\n"
        "map same 2000\nadvise same mergeable\nfill same list 2\nmap unique 300\n"
        "advise unique mergeable\nfill unique own 4\nend",
        "map huge 1024\nadvise huge hugepage\nfill huge same 3\nadvise huge mergeable",
    ),
    memory_mib=SIZE // MIB,
)


@pytest.fixture(scope="module", params=[SERIES[0], again(SERIES[1])])
def moment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A directory with ``elf``, ``raw``, ``lime`` and ``avml``."""
    directory = tmp_path_factory.mktemp("raw")
    with stopped_guest(WORKLOAD, lab_kernel(request.param)) as guest:
        guest.dump(directory / "elf")
        guest.qmp("pmemsave", val=0, size=SIZE, filename=str(directory / "raw"))
    memory = (directory / "raw").read_bytes()
    ranges = (0x1000, 0x9FC00), (MIB, SIZE)  # about what /proc/iomem calls System RAM
    blocks = [(start, memory[start:end]) for start, end in ranges]
    (directory / "lime").write_bytes(lime(blocks))
    (directory / "avml").write_bytes(avml(blocks))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def from_elf(moment: Path) -> Snapshot:
    return snapshot_of(moment / "elf")


def snapshot_of(*cores: Path | str) -> Snapshot:
    return collect_core([Path(core) for core in cores], seed=0)


def assert_same(found: Snapshot, expected: Snapshot) -> None:
    assert len(expected.mappings) > 12_000
    assert len(expected.stable_nodes) > 1000
    assert not expected.frames["unknown"].any()
    for table in TABLES:
        pd.testing.assert_frame_equal(getattr(found, table), getattr(expected, table), obj=table)
    for key in ("unknown", "ksm", "kernel", "symbols"):
        assert found.info[key] == expected.info[key]
    ours, theirs = (prediction_json(predict(each, Policy())) for each in (found, expected))
    assert ours | {"origin": theirs["origin"]} == theirs


@pytest.mark.parametrize("name", ["raw", "lime", "avml"])
def test_all_formats_give_the_same(name: str, moment: Path, from_elf: Snapshot) -> None:
    found = snapshot_of(f"{moment / name}@0" if name == "raw" else moment / name)
    assert_same(found, from_elf)
    assert found.info["source"]["format"] == name
    assert found.info["source"]["warnings"] == []


@pytest.mark.parametrize("name", ["lime", "avml"])
def test_read_in_small_pieces(name: str, moment: Path, from_elf: Snapshot) -> None:
    with small_pieces():
        found = snapshot_of(moment / name)
    assert_same(found, from_elf)


def test_pieces_of_one_file_in_another_order(
    moment: Path, from_elf: Snapshot, tmp_path: Path
) -> None:
    """As where a hole separates them; and skewed, as behind a header."""
    memory = (moment / "raw").read_bytes()
    (tmp_path / "swapped").write_bytes(b"header" + memory[200 * MIB :] + memory[: 200 * MIB])
    lower = f"{tmp_path / 'swapped'}@0:{SIZE - 200 * MIB + 6}"
    upper = f"{tmp_path / 'swapped'}@200M:6+{SIZE - 200 * MIB:#x}"
    assert_same(snapshot_of(upper, lower), from_elf)


def test_pieces_in_several_files(moment: Path, from_elf: Snapshot, tmp_path: Path) -> None:
    parts = files_of(moment / "raw", [150 * MIB + 4096, 300 * MIB], tmp_path)
    assert_same(snapshot_of(*reversed(parts)), from_elf)


def files_of(raw: Path, cuts: Sequence[int], directory: Path) -> list[str]:
    memory = raw.read_bytes()
    parts = []
    for start, end in zip([0, *cuts], [*cuts, SIZE], strict=True):
        path = directory / f"from-{start:x}"
        path.write_bytes(memory[start:end])
        parts.append(f"{path}@{start:#x}")
    return parts


def test_what_is_in_no_piece_is_unknown(moment: Path, from_elf: Snapshot) -> None:
    """Frames of the least memory that only user pages lie in."""
    pfns = from_elf.frames["pfn"].to_numpy()
    user = longest_run(pfns.tolist())
    lower = f"{moment / 'raw'}@0:0+{user[0] << 12:#x}"
    end = user[1] << 12
    found = snapshot_of(lower, f"{moment / 'raw'}@{end:#x}:{end:#x}")
    unknown = found.frames["unknown"] == Unknown.UNREADABLE
    inside = (pfns >= user[0]) & (pfns < user[1])
    assert inside.sum() > 100
    assert (unknown == inside).all()
    assert found.frames["hash"][unknown].isna().all()
    assert found.frames["hash"][~unknown].equals(from_elf.frames["hash"][~unknown])
    (warning,) = found.info["source"]["warnings"]
    assert f"are in no piece: {user[0] << 12:#x} to {end - 1:#x}" in warning


def longest_run(pfns: list[int]) -> tuple[int, int]:
    """The most frames without a gap, as the first and the one behind the last."""
    best = start = 0
    length = 0
    for n in range(1, len(pfns) + 1):
        if n == len(pfns) or pfns[n] != pfns[n - 1] + 1:
            if n - start > length:
                best, length = start, n - start
            start = n
    return pfns[best], pfns[best] + length


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("raw@1M", "raw@0x0"),
        ("raw@4G", "raw@0x0"),
        ("behind-a-header@0", "behind-a-header@0x0:0x1234"),
    ],
)
def test_a_wrong_address_is_told_with_the_right_one(
    given: str, right: str, moment: Path, tmp_path: Path
) -> None:
    (tmp_path / "raw").symlink_to(moment / "raw")
    with (tmp_path / "behind-a-header").open("wb") as file:
        file.write(bytes(0x1234))
        file.write((moment / "raw").read_bytes())
    with pytest.raises(UsageError) as raised:
        snapshot_of(tmp_path / given)
    assert raised.value.hint == f"try: --core {tmp_path / right}"


@pytest.mark.parametrize(("series", "machine"), [("7.3", "q35"), again("6.1", "pc")])
def test_a_guests_memory_in_a_file_with_a_hole_in_the_machine(
    series: str, machine: str, tmp_path: Path
) -> None:
    """As of a guest with more memory than fits below 4 GiB: half of it lies above."""
    path, half = tmp_path / "backend", SIZE // 2
    backend = f"memory-backend-file,id=ram,size={SIZE},mem-path={path},share=on"
    options = f"{machine},memory-backend=ram,max-ram-below-4g={half}"
    qemu = ("-machine", options, "-object", backend)
    with stopped_guest(WORKLOAD, lab_kernel(series), qemu=qemu) as guest:
        guest.dump(tmp_path / "elf")
        shutil.copyfile(path, tmp_path / "memory")
    said = hints(f"{tmp_path / 'memory'}@0")
    if len(said) == 1:  # the kernel itself is in the upper half
        assert said == [f"{tmp_path / 'memory'}@{(4 << 30) - half:#x}"]
        said = hints(*said)
    lower, upper = said
    assert lower == f"{tmp_path / 'memory'}@0x0:0x0+{half:#x}"
    assert upper == f"{tmp_path / 'memory'}@0x100000000:{half:#x}"
    found = snapshot_of(lower, upper)
    assert_same(found, snapshot_of(tmp_path / "elf"))
    assert found.frames["pfn"].max() >= 1 << 20
    assert found.info["source"]["warnings"] == []
    for name in ("backend", "memory", "elf"):
        (tmp_path / name).unlink()


def hints(*cores: str) -> list[str]:
    """What is to be named instead."""
    with pytest.raises(UsageError) as raised:
        snapshot_of(*cores)
    return re.findall(r"--core (\S+)", str(raised.value.hint))


def test_check(moment: Path, from_elf: Snapshot) -> None:
    for core, name in ((f"{moment / 'raw'}@0", "raw"), (moment / "avml", "avml")):
        code, found = findings("--core", core)
        assert code == 0
        assert {finding["status"] for finding in found} == {"ok"}
        facts = {finding["subject"]: finding["facts"] for finding in found}
        assert facts["dump"]["format"] == name
        assert facts["coverage"]["coverage"] == 1.0
        assert facts["memory"]["anonymous_bytes"] == 4096 * len(from_elf.frames)


def test_a_cut_lime_file_is_read_as_far_as_it_goes(
    moment: Path, from_elf: Snapshot, tmp_path: Path
) -> None:
    cut = tmp_path / "lime"
    shutil.copyfile(moment / "lime", cut)
    with cut.open("r+b") as file:
        file.truncate(cut.stat().st_size - 4096)
    found = snapshot_of(cut)
    (warning,) = found.info["source"]["warnings"]
    assert "is cut off" in warning
    known = found.frames["unknown"] == Unknown.HASHED
    assert set(found.frames["unknown"][~known]) <= {Unknown.TRUNCATED}
    assert found.frames["hash"][known].equals(from_elf.frames["hash"][known])
