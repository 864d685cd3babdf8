"""Whether an overcommit is safe: against the model's own count, and never where it is not known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from estimator.advice.break_ups import BreakUps
from estimator.fleet.one_host import WRITTEN_PERCENT, Question, study, written_in_a_minute
from estimator.fleet.overcommit import SAFE, UNKNOWN, UNSAFE, needed_bytes, overcommit
from estimator.fleet.overcommit_section import host_words, overcommit_section
from estimator.ksm.policy import Policy
from tests.fleets import write_fleet
from tests.schemas import check
from tests.systems import fork_server
from tests.test_fleet import command

MIB = 1 << 20


def a_host(
    name: str, net_mib: int, written: float | None, needed_mib: int = 40
) -> dict[str, object]:
    """Of 1,000 MiB, whose curve is a line up to ``needed_mib`` at 100 %."""
    curve = [needed_mib * MIB * point // 100 for point in WRITTEN_PERCENT]
    about = {"host": name, "place": f"/{name}.ksm", "written_share": written}
    return about | {
        "anonymous_bytes": 1000 * MIB,
        "net_bytes": net_mib * MIB,
        "needed_bytes": curve,
    }


def verdicts(*hosts: dict[str, object], ratio: float, share: float | None) -> dict[str, str]:
    found = overcommit(pd.DataFrame(list(hosts)), 0, ratio, share).hosts
    return dict(zip(found["host"], found["verdict"], strict=True))


def test_what_is_left_holds_the_copies_or_not() -> None:
    # 1,000 MiB at 1.25 have 800: with 220 freed 20 are left, which half of 40 just fill
    hosts = [a_host("most", 221, None), a_host("less", 219, None), a_host("none", 190, None)]
    told = verdicts(*hosts, ratio=1.25, share=0.5)
    assert told == {"most": SAFE, "less": UNSAFE, "none": UNSAFE}
    assert verdicts(hosts[1], ratio=1.25, share=0.4) == {"less": SAFE}


def test_what_is_not_measured_is_not_safe() -> None:
    hosts = [a_host("measured", 300, 0.1), a_host("not", 300, None), a_host("full", 100, None)]
    told = verdicts(*hosts, ratio=1.25, share=None)
    assert told == {"measured": SAFE, "not": UNKNOWN, "full": UNSAFE}  # full: even at rest
    good = pd.DataFrame(hosts[:1])
    assert overcommit(good, 0, 1.25, None).verdict == SAFE
    missing = overcommit(good, 2, 1.25, None)
    assert (missing.verdict, missing.count(UNKNOWN), missing.safe_ratio) == (UNKNOWN, 2, None)
    assert "not known to be safe" in overcommit_section(missing).title
    nothing = pd.DataFrame([a_host("empty", 0, 0.0) | {"anonymous_bytes": 0}])
    assert overcommit(nothing, 0, 1.25, None).verdict == UNKNOWN


@pytest.mark.parametrize("share", [0.05, 0.37, 1.0])
def test_the_largest_safe_ratio_is_the_border(share: float) -> None:
    hosts = pd.DataFrame([a_host("a", 300, None), a_host("b", 250, None)])
    most = overcommit(hosts, 0, 1.1, share).safe_ratio
    assert most is not None
    assert overcommit(hosts, 0, most * 0.9999, share).verdict == SAFE
    assert overcommit(hosts, 0, most * 1.0001, share).verdict == UNSAFE


def test_between_the_points_never_less_than_is_needed() -> None:
    snapshot = fork_server()
    row = study(snapshot, Question(Policy(), "unit", 150.0)).host
    curve = np.array([row["needed_bytes"]])
    for percent, exact in zip(WRITTEN_PERCENT, row["needed_bytes"], strict=True):
        assert needed_bytes(curve, np.array([percent / 100]))[0] == pytest.approx(exact)
    # each merged mapping of a node of n takes a frame; the node's own returns with chance x**n
    sizes = np.array([3, 8])
    exact = lambda x: (sizes * x - x**sizes).sum() * 1e9  # noqa: E731
    curve = np.array([[round(exact(point / 100)) for point in WRITTEN_PERCENT]])
    for share in (0.003, 0.015, 0.08, 0.4, 0.6, 0.9, 0.99):
        assert needed_bytes(curve, np.array([share]))[0] >= exact(share) - 1
    assert np.isnan(needed_bytes(curve, np.array([np.nan]))[0])
    assert needed_bytes(curve, np.array([0.0]))[0] == 0


@pytest.mark.parametrize(
    ("seconds", "expected"), [(30.0, 0.2), (60.0, 0.1), (300.0, 0.1), (2.0, 1.0)]
)
def test_a_minute_from_another_time(seconds: float, expected: float) -> None:
    writes = BreakUps(seconds, 1000, 100, 1.5, pd.DataFrame())
    assert written_in_a_minute(writes) == pytest.approx(expected)
    assert written_in_a_minute(BreakUps(seconds, 0, 0, 1.5, pd.DataFrame())) is None


def test_a_host_without_a_name_is_said_to_have_none() -> None:
    hosts = pd.DataFrame([a_host("web1", 300, 0.1), a_host("", 300, 0.1) | {"host": None}])
    rows = overcommit(hosts, 0, 1.25, None).hosts["host"]
    assert sorted(map(host_words, rows)) == ["(unnamed)", "web1"]


def test_the_command(tmp_path: Path) -> None:
    fleet, kept = write_fleet(tmp_path / "fleet", 2), tmp_path / "a.fleet"
    asked = ["report", fleet, "--workers", 1, "-o", kept, "--overcommit"]
    told = command(*asked, 1.01, "--written", "1%", "--json")
    assert told.returncode == 0, told.stderr
    answer = json.loads(told.stdout)
    check("fleet", answer)
    assert answer["overcommit"]["asked"]["verdict"] == SAFE
    unknown = " ".join(command(*asked, 1.01).stdout.split())
    assert "An overcommit of 1.01 is not known to be safe if" in unknown
    assert "not safe on 0, unknown on 2." in unknown
    wrong = command("report", fleet, "--written", "1%")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
