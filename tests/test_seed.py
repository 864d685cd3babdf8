"""The seed of the hashes: a secret of each snapshot, shared only where that is asked for."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from xxhash import xxh3_64_intdigest

from estimator.cli import cli
from estimator.cli.source import Source
from estimator.collect.hashing import zero_hash
from estimator.collect.seed import about_hash, random_seed, read_seed_file, seed_of
from estimator.errors import TargetError, UsageError
from estimator.ksm.predict import predict
from estimator.report.as_json import prediction_json_parts
from estimator.snapshot.snapshot import Snapshot
from tests.systems import Area, Process, system

LARGEST = 2**64 - 1


def seed_file(directory: Path, text: str, mode: int = 0o600) -> Path:
    path = directory / "seed"
    path.write_text(text)
    path.chmod(mode)
    return path


def source(**named: Any) -> Source:
    nothing: dict[str, Any] = {"core": (), "live": False, "qemu": None, "procfs": True}
    nothing |= {"symbols": (), "architecture": None, "seed_file": None, "like": None}
    nothing |= {"rate": None, "passes": 1, "interval": None, "max_memory": None}
    nothing |= {"without_contents": False}
    return Source(**nothing | named)


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of the looks that are taken."""
    taken: list[int] = []

    def look(*, seed: int, **_: Any) -> Any:
        taken.append(seed)
        return SimpleNamespace(snapshot=lambda: with_seed(seed))

    monkeypatch.setattr("estimator.procfs.collect.gather_procfs", look)
    monkeypatch.setattr("estimator.cli.source.lower_priority", lambda: None)
    return taken


def with_seed(seed: int) -> Snapshot:
    found = system([Process("web", [Area([1, 2, 3])], pid=10)])
    found.info["hash"] = about_hash(seed)
    return found


def test_each_snapshot_has_a_seed_of_its_own(seeds: list[int]) -> None:
    for _ in range(3):
        source().collect(lambda *_: None)
    assert len(set(seeds)) == 3
    assert max(random_seed() for _ in range(64)) > 2**56
    assert all(0 <= seed <= LARGEST for seed in seeds)


def test_all_passes_have_one_seed(seeds: list[int]) -> None:
    source(passes=3).collect(lambda *_: None)
    assert len(seeds) == 3
    assert len(set(seeds)) == 1


def test_what_names_the_seed_does_not_tell_it() -> None:
    found = about_hash(LARGEST)
    assert found["seed"] == LARGEST
    assert found["seed_id"] == about_hash(LARGEST)["seed_id"] != about_hash(0)["seed_id"]
    assert len(found["seed_id"]) == 16
    assert json.loads(json.dumps(found)) == found


def test_no_answer_has_the_seed() -> None:
    seed = 0xFEDC_BA98_7654_3210
    text = b"".join(prediction_json_parts(predict(with_seed(seed)))).decode()
    assert str(seed) not in text
    assert f"{seed:x}" not in text


def test_zero_pages_are_known_under_the_largest_seed() -> None:
    assert zero_hash(LARGEST, 4096) == xxh3_64_intdigest(bytes(4096), LARGEST) != zero_hash(0, 4096)


@pytest.mark.parametrize(
    ("text", "seed"),
    [
        (" fedcba9876543210\n", 0xFEDC_BA98_7654_3210),
        ("0x1F", 31),
        ("1234567890123456", 0x1234_5678_9012_3456),  # as od may write it
        ("42\n", 42),
        (str(LARGEST), LARGEST),
    ],
)
def test_a_seed_from_a_file(text: str, seed: int, tmp_path: Path, seeds: list[int]) -> None:
    source(seed_file=seed_file(tmp_path, text)).collect(lambda *_: None)
    assert seeds == [seed]


@pytest.mark.parametrize("text", ["", "x", "-1", str(2**64), "1" * 100, "0x" + "1" * 17, "1 2"])
def test_what_is_no_seed(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no 64-bit number"):
        read_seed_file(seed_file(tmp_path, text))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o700])
def test_a_seed_that_others_may_know_is_refused(mode: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"mode {mode:04o}") as refused:
        read_seed_file(seed_file(tmp_path, "1", mode))
    assert "umask 077" in str(refused.value)


def test_only_a_regular_file_of_the_caller_or_root_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/urandom")):
        with pytest.raises(UsageError, match=r"no regular file|can't be read"):
            read_seed_file(path)
    with pytest.raises(UsageError, match="can't be read"):
        read_seed_file(tmp_path / "none")
    good = seed_file(tmp_path, "7", 0o400)
    assert read_seed_file(good) == 7
    status = os.stat(good)
    other = os.stat_result((*status[:4], 12345, *status[5:]))
    monkeypatch.setattr("os.fstat", lambda _: other)
    with pytest.raises(UsageError, match="belongs to user 12345"):
        read_seed_file(good)


def test_the_way_to_make_a_seed_file_makes_one(tmp_path: Path) -> None:
    path = tmp_path / "new"
    with pytest.raises(UsageError) as refused:
        read_seed_file(path)
    command = str(refused.value).partition("make one with: ")[2]
    subprocess.run(["sh", "-c", command], check=True)
    assert 0 <= read_seed_file(path) <= LARGEST


def test_the_seed_of_another_snapshot(tmp_path: Path, seeds: list[int]) -> None:
    first = tmp_path / "first.ksm"
    first.mkdir()
    (first / "snapshot.json").write_text(json.dumps({"hash": about_hash(LARGEST)}))
    source(like=first).collect(lambda *_: None)
    assert seeds == [LARGEST]
    with pytest.raises(TargetError, match="it has no snapshot"):
        seed_of(tmp_path)
    (first / "snapshot.json").write_text(json.dumps({"hash": {"name": "md5", "seed": 1}}))
    with pytest.raises(UsageError, match="another kind"):
        seed_of(first)


def test_two_ways_to_name_the_seed_are_refused(tmp_path: Path, seeds: list[int]) -> None:
    with pytest.raises(UsageError, match="not both"):
        source(seed_file=seed_file(tmp_path, "1"), like=tmp_path).collect(lambda *_: None)
    assert seeds == []


def test_there_is_no_seed_on_the_command_line() -> None:
    text = CliRunner().invoke(cli, ["collect", "--help"]).output
    assert "--seed-file" in text
    assert "--like" in text
    assert "--seed " not in text
