"""A snapshot as one file: written, read from a pipe, replaced, damaged."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from pandas.testing import assert_frame_equal

from estimator.collect.seed import seed_of
from estimator.errors import TargetError
from estimator.snapshot.schema import SCHEMAS
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot, write_snapshot
from tests.commands import estimator
from tests.systems import Area, Process, fork_server, system

FORK = fork_server()
SMALL = system([Process("db", [Area([1, 1, 2])])])


def same(a: Snapshot, b: Snapshot) -> None:
    assert a.info == b.info
    for name in (*SCHEMAS, "stable_items"):
        assert_frame_equal(getattr(a, name), getattr(b, name))


def test_a_file_is_as_good_as_a_directory(tmp_path: Path) -> None:
    for name in ("a.ksm", "a.ksm.tar"):
        write_snapshot(FORK, tmp_path / name)
    file = tmp_path / "a.ksm.tar"
    assert file.stat().st_mode & 0o777 == 0o600
    same(open_snapshot(file), open_snapshot(tmp_path / "a.ksm"))
    with tarfile.open(file) as archive:
        assert {m.name.partition("/")[0] for m in archive} == {"a.ksm"}
        assert {m.mode for m in archive} == {0o600}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ksm", "a.ksm.tar"]


@pytest.mark.parametrize("how", ["cf", "czf", "cJf"])
def test_what_tar_makes_of_a_directory_is_read(how: str, tmp_path: Path) -> None:
    write_snapshot(FORK, tmp_path / "a.ksm")
    subprocess.run(["tar", how, tmp_path / "b.tar", "-C", tmp_path, "./a.ksm"], check=True)
    same(open_snapshot(tmp_path / "b.tar"), open_snapshot(tmp_path / "a.ksm"))


def test_the_seed_of_a_file(tmp_path: Path) -> None:
    made = system([Process("db", [Area([1])])])
    made.info["hash"] = {"name": "xxh3_64", "seed": 77}
    write_snapshot(made, tmp_path / "a.tar")
    assert seed_of(tmp_path / "a.tar") == 77


def test_a_reader_that_goes_before_the_end_is_a_failure(tmp_path: Path) -> None:
    script = (
        "from estimator.snapshot.store import write_snapshot; from pathlib import Path; "
        "from tests.test_archive import FORK; write_snapshot(FORK, Path('-'))"
    )
    run = f'{sys.executable} -c "{script}" | head -c 0; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", run], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "TargetError: who reads the snapshot has gone before it was whole" in done.stderr


def test_through_a_pipe(tmp_path: Path) -> None:
    write_snapshot(FORK, tmp_path / "a.tar")
    command = f"cat {tmp_path}/a.tar | {sys.executable} -m estimator predict - --json"
    piped = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert piped.stdout == estimator("predict", tmp_path / "a.tar", "--json").stdout
    nothing = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m estimator predict - </dev/null"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert nothing.returncode == 3
    assert nothing.stderr.startswith("ksm-estimator: stdin is no snapshot")
    assert nothing.stderr.count("\n") == 1


def test_stdout_takes_one(tmp_path: Path) -> None:
    code = (
        "from estimator.snapshot.store import write_snapshot; from pathlib import Path;"
        "from tests.test_archive import SMALL; write_snapshot(SMALL, Path('-'))"
    )
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    write_snapshot(SMALL, tmp_path / "a.ksm")
    same(open_snapshot(tmp_path / "out"), open_snapshot(tmp_path / "a.ksm"))
    assert estimator("run", "--procfs", "-o", "-").returncode == 2


@pytest.mark.parametrize("name", ["a.ksm", "a.tar"])
def test_only_force_replaces(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_snapshot(FORK, path)
    with pytest.raises(TargetError, match=r"exists already; .*--force"):
        write_snapshot(SMALL, path)
    write_snapshot(SMALL, path, replace=True)
    assert open_snapshot(path).processes["comm"].tolist() == ["db"]
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_force_removes_snapshots_alone(tmp_path: Path) -> None:
    precious = tmp_path / "mine"
    precious.mkdir()
    (precious / "letter").write_text("dear")
    with pytest.raises(TargetError, match="what is there is no snapshot"):
        write_snapshot(SMALL, precious, replace=True)
    write_snapshot(SMALL, tmp_path / "a.ksm")
    (tmp_path / "a.ksm/notes").write_text("kept")
    with pytest.raises(TargetError, match="what is there is no snapshot"):
        write_snapshot(FORK, tmp_path / "a.ksm", replace=True)
    assert open_snapshot(tmp_path / "a.ksm").processes["comm"].tolist() == ["db"]
    (tmp_path / "link.ksm").symlink_to("a.ksm")
    with pytest.raises(TargetError):
        write_snapshot(FORK, tmp_path / "link.ksm", replace=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ksm", "link.ksm", "mine"]


def damaged(tmp_path: Path) -> dict[str, Path]:
    """Files that are no whole snapshot, by what is wrong with them."""
    whole = tmp_path / "whole.tar"
    write_snapshot(SMALL, whole)
    content = whole.read_bytes()
    made = {"cut": content[: len(content) // 2], "text": b"hello", "empty": b""}
    for name, keep in (("one missing", 3), ("twice", 7)):
        buffer = io.BytesIO()
        with tarfile.open(whole) as archive, tarfile.open(fileobj=buffer, mode="w") as copy:
            members = archive.getmembers()
            for member in (members * 2)[:keep]:
                copy.addfile(member, archive.extractfile(member))
        made[name] = buffer.getvalue()
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    return {name: tmp_path / name for name in made}


def test_what_is_no_whole_archive(tmp_path: Path) -> None:
    for path in damaged(tmp_path).values():
        done = estimator("predict", path)
        assert done.returncode == 3, path
        assert done.stderr.count("\n") == 1


def test_what_is_not_there_and_what_is_no_snapshot(tmp_path: Path) -> None:
    assert "does not exist; make a snapshot" in estimator("predict", tmp_path / "no").stderr
    assert "is a directory, but no snapshot" in estimator("predict", tmp_path).stderr


def test_a_member_elsewhere_is_written_nowhere(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("../../evil", "/snapshot.json"):
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, io.BytesIO(b"{}"))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    before = os.listdir(tmp_path)
    with pytest.raises(TargetError):
        open_snapshot(tmp_path / "a.tar")
    assert os.listdir(tmp_path) == before
