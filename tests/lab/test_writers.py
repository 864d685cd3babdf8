"""Memory that keeps changing: two dumps tell what one can't."""

from __future__ import annotations

import pytest

from estimator.errors import UsageError
from estimator.kernel.collect import collect_core
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from tests.lab.conftest import RunWorkload, again
from tests.lab.kernels import SERIES
from tests.lab.verdict import judge
from tests.lab.workloads import find

pytestmark = pytest.mark.lab

# Each process rewrites its pages every 20 ms and ksmd looks at them every 500 ms, so a page merges
# or gets into the unstable tree only if its writer is kept from running for as long as that.
TOLERANCE = 0.02
PAGES = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile")


@pytest.mark.parametrize("series", [*SERIES[:1], *map(again, SERIES[1:-1]), *SERIES[-1:]])
def test_two_dumps_tell_which_pages_never_merge(series: str, lab: RunWorkload) -> None:
    result = lab(find("writers", series), series)
    verdict = judge(result)
    two, after = verdict.prediction, verdict.truth.after
    true = {name: int(after.ksm[name]) for name in PAGES}
    assert true["pages_volatile"] > 0
    bound = TOLERANCE * true["pages_volatile"]
    for name in PAGES:
        assert abs(two.counters[name] - true[name]) <= bound, name
    changed = two.coverage.changed_pages
    assert any(
        f", {changed:,} changed or were new and are taken to keep" in text for text in two.warnings
    )

    one = predict(verdict.snapshot, Policy(scope="enabled"))
    assert one.counters["pages_volatile"] == 0
    assert one.counters["pages_unshared"] == two.counters["pages_volatile"]
    assert one.counters["pages_sharing"] >= true["pages_sharing"]
    assert any("upper bounds" in text for text in one.warnings)
    assert not any("upper bounds" in text for text in two.warnings)

    assert result.second_vmcore is not None
    second = collect_core(result.second_vmcore, [result.vmlinux], seed=0)
    with pytest.raises(UsageError, match="shows an earlier moment than the other one"):
        predict(second, later=verdict.snapshot)
