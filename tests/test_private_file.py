"""Answers in files: nothing that is no regular file loses its place to one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from estimator.cli.private_file import new_file, write_private
from estimator.errors import TargetError


@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_what_is_no_regular_file_stays(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "there"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            if os.geteuid() != 0:
                pytest.skip("only root can make one")
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 7))  # as /dev/full
        case "directory":
            path.mkdir()
    before = path.stat()
    with pytest.raises(TargetError, match="it is there, and no regular file"):
        write_private(path, "text", replace=True)
    assert (path.stat().st_mode, path.stat().st_ino) == (before.st_mode, before.st_ino)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target.prom", tmp_path / "link.prom"
    target.write_text("old")
    link.symlink_to(target.name)
    write_private(link, "new", replace=True)
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert sorted(tmp_path.iterdir()) == [link, target]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "there"
    path.write_text("old")
    with (
        pytest.raises(TargetError, match="can't be written: No space"),
        new_file(path, replace=True),
    ):
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
