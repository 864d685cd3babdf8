"""What a limit that the kernel refuses while pages are merged would come to: starting over."""

from __future__ import annotations

from pathlib import Path

import pytest

from estimator.kernel.collect import collect_core
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from tests.lab.compare import counter_numbers, unequal
from tests.lab.conftest import again, lab_kernel
from tests.lab.truth import KSM, settle
from tests.lab.workload import Session, Workload, run_workload

pytestmark = pytest.mark.lab

ZERO_PAGES = 150
LIMIT = 20
SCRIPT = f"""
    map data {ZERO_PAGES + 100}
    fill data[:{ZERO_PAGES}] zero
    fill data[{ZERO_PAGES}:] same 1
    advise data mergeable
"""


@pytest.mark.parametrize("series", ["7.3", again("6.12")])
@pytest.mark.parametrize("use_zero_pages", [1, 0])
def test_zero_pages_that_ksmd_placed(series: str, use_zero_pages: int, tmp_path: Path) -> None:
    """With use_zero_pages it places all of them again; else they are told to merge."""

    def merge(session: Session) -> None:
        settle(session.guest, min_scans=4)

    settings = {"run": 2, "max_page_sharing": LIMIT, "use_zero_pages": use_zero_pages}
    workload = Workload(
        "starting-over",
        (SCRIPT, SCRIPT),
        ksm={"use_zero_pages": 1, "smart_scan": 0},
        before_dump=merge,
        commands_after_dump=tuple(
            f"echo {value} > {KSM}/{name}" for name, value in settings.items()
        ),
    )
    result = run_workload(workload, lab_kernel(series), tmp_path / "vmcore")
    snapshot = collect_core(result.vmcore, [result.vmlinux])
    asked = Policy(scope="enabled", max_page_sharing=LIMIT, use_zero_pages=bool(use_zero_pages))
    prediction = predict(snapshot, asked)
    given_back = 2 * ZERO_PAGES
    assert f"gives {given_back} zero pages" in " ".join(prediction.warnings)
    differ = unequal(counter_numbers(prediction, result.truth.after))
    if use_zero_pages:
        assert differ == {}
    else:
        assert differ["ksm_zero_pages"] == (given_back, 0)
        told, true = differ["ksm_rmap_items"]
        assert true - told == given_back
