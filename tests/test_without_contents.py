"""--without-contents on the way through: what is collected, checked, answered and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from estimator.arrays import Bytes, Words
from estimator.errors import CannotAnswerError, TargetError
from estimator.kernel.collect import collect
from estimator.kernel.memory import Digest
from estimator.kernel.target import Target
from estimator.ksm.policy import Policy
from estimator.ksm.upper_bound import upper_bound
from estimator.report.notebook import show_upper_bound
from estimator.snapshot.checks import check_snapshot
from estimator.snapshot.flags import Unknown
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot, write_snapshot
from tests.commands import estimator
from tests.fake_kernel import FlatMemory
from tests.systems import fork_server
from tests.test_kernel_collect import MERGED_PFN, OWN_PFN, Merged
from tests.test_upper_bound import without_contents


@pytest.fixture(scope="module")
def unread() -> Snapshot:
    return without_contents(fork_server())


@pytest.fixture(scope="module")
def path(unread: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("snapshots") / "unread.ksm"
    write_snapshot(unread, path)
    return path


class Gaps(FlatMemory):
    """A dump without user pages; to read one is a mistake."""

    knows_gaps = True

    def unknown(self, pfns: Words) -> Bytes:
        gone = np.isin(pfns, [MERGED_PFN, OWN_PFN])
        return np.where(gone, Unknown.EXCLUDED, Unknown.HASHED).astype(np.uint8)

    def digests(self, pfns: Words, digest: Digest) -> tuple[Words, Bytes]:
        raise AssertionError("contents are read")


def test_no_content_is_read() -> None:
    kernel = Merged().kernel
    whole = Merged().collect()
    target = Target(kernel.prog, Gaps(kernel.prog), "core", "vmcore", "ELF")
    with pytest.raises(CannotAnswerError, match="no user pages: 2 of 2 anonymous frames"):
        collect(target)
    found = collect(target, without_contents=True, seed=7)
    assert found.info["without_contents"] is True
    assert whole.info["without_contents"] is False
    assert found.frames["unknown"].tolist() == [Unknown.EXCLUDED] * 2
    assert found.frames["hash"].isna().all()
    assert found.mappings.equals(whole.mappings)
    assert found.vmas.equals(whole.vmas)
    target = Target(kernel.prog, FlatMemory(kernel.prog), "live", "/proc/kcore", "kcore")
    assert set(collect(target, without_contents=True).frames["unknown"]) == {Unknown.NOT_READ}


def test_a_snapshot_without_contents_has_no_hash(unread: Snapshot, path: Path) -> None:
    assert open_snapshot(path).frames["unknown"].isin([1, 5]).all()
    with pytest.raises(TargetError, match="contents were left out"):
        check_snapshot("x", fork_server_with({"without_contents": True}))
    with pytest.raises(TargetError, match="without_contents can't be 'maybe'"):
        check_snapshot("x", fork_server_with({"without_contents": "maybe"}))


def fork_server_with(info: dict[str, object]) -> Snapshot:
    snapshot = fork_server()
    snapshot.info.update(info)
    return snapshot


@pytest.mark.parametrize("command", ["predict", "report"])
def test_an_upper_bound_as_text(command: str, path: Path) -> None:
    done = estimator(command, path, COLUMNS="100")
    assert done.returncode == 6
    assert "an upper bound, for contents were left out; --min-coverage 0 accepts it" in done.stderr
    text = " ".join(done.stdout.split())
    assert text.startswith("With every process opted in, what KSM would save is not known")
    for words in ("a bound, not a prediction", "kdump-tools", "pages_shared ? ?", "shared by fork"):
        assert words in text
    assert "would free" not in text
    assert estimator(command, path, "--min-coverage", "0").returncode == 0


def test_an_upper_bound_as_json(path: Path, unread: Snapshot) -> None:
    done = estimator("predict", path, "--json", "--scope", "enabled")
    assert done.returncode == 6
    answer = json.loads(done.stdout)
    assert set(answer["counters"].values()) == {None}
    physical = answer["physical"]
    assert {name for name, value in physical.items() if value is not None} == {"frames_before"}
    bound = upper_bound(unread, Policy(scope="enabled"))
    assert answer["upper_bound"]["frames_freed"] == bound.ledger.frames_freed
    assert answer["upper_bound"]["bytes_freed"] == 4096 * bound.ledger.frames_freed
    pages = bound.coverage.candidate_pages
    assert answer["full_scan"]["pages"] == pages
    assert answer["full_scan"]["batches"] == pages // 100 + 1
    assert answer["full_scan"]["cpu_share"] is None
    assert answer["coverage"]["hashed_share"] == 0
    assert sum(row["candidate_pages"] for row in answer["processes"]) == pages
    assert sum(row["candidate_pages"] for row in answer["vmas"]) == pages
    assert "ksm_merging_pages" not in answer["processes"][0]


def test_an_upper_bound_as_a_page(path: Path, tmp_path: Path) -> None:
    done = estimator("report", path, "--html", tmp_path / "page.html")
    assert done.returncode == 6
    page = (tmp_path / "page.html").read_text()
    assert "a bound, not a prediction" in page
    assert "<svg" not in page
    assert "The plan" not in page


def test_an_upper_bound_in_a_notebook(unread: Snapshot) -> None:
    display = show_upper_bound(unread, upper_bound(unread))
    for shown in (repr(display), display._repr_html_()):
        assert "a bound, not a prediction" in " ".join(shown.split())


@pytest.mark.parametrize("command", ["advise", "verify", "compare", "predict --and"])
def test_what_needs_contents_says_so(command: str, path: Path, tmp_path: Path) -> None:
    name, *option = command.split()
    second = [*option, path] if option or name == "compare" else []
    done = estimator(name, path, *second)
    assert done.returncode == 5
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "collect again without that option" in done.stderr


def test_a_saved_bound_is_not_compared(path: Path, tmp_path: Path) -> None:
    saved = tmp_path / "bound.json"
    saved.write_text(estimator("predict", path, "--json").stdout)
    done = estimator("compare", saved, saved)
    assert (done.returncode, done.stdout) == (5, "")
    assert "nothing to compare" in done.stderr


def test_passes_compare_contents() -> None:
    done = estimator("collect", "--live", "--passes", "2", "--without-contents", "-o", "x.ksm")
    assert done.returncode == 2
    assert "--passes compares page contents" in done.stderr
