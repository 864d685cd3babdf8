"""A kernel read from its package shows what the same kernel shows when it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from estimator.kernel.core import open_core
from estimator.kernel.ksm_settings import features
from estimator.kernel.requirements import missing
from estimator.kernel.symbols import OWN
from estimator.ksm.features import FEATURES
from tests.lab.conftest import RunWorkload, lab_kernel
from tests.lab.kernel_image import program_of, vmlinux_of
from tests.lab.kernels import SERIES
from tests.lab.survey import Row, page
from tests.lab.workloads import find

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("series", SERIES)
def test_types_symbols_and_features(series: str, lab: RunWorkload) -> None:
    kernel = lab_kernel(series)
    prog, carried = program_of(vmlinux_of(kernel.vmlinuz), kernel.release)
    assert missing(prog) == []
    dumped = lab(find("identical", series), series)
    with open_core(dumped.vmcore, [OWN]) as target:
        assert features(prog) == features(target.prog)
        running = target.prog["init_task"].address_of_().value_()
        random_offset = running - prog["init_task"].address_of_().value_()
        for name in ("ksm_mm_head", "root_stable_tree", "vmaflag_names"):
            moved = target.prog[name].address_of_().value_() - random_offset
            assert carried.kallsyms.address(name) == moved


def test_the_page(tmp_path: Path) -> None:
    row = Row("6.18.15", {feature.name: "yes" for feature in FEATURES}, "–")
    old = Row("6.9.1", {"smart_scan": "no\\*"}, "`x` in `struct y`")
    lines = [line for line in page([row, old]).splitlines() if line.startswith(("| 6.9", "| 6.18"))]
    assert len(lines) == 2
    assert lines[0].startswith("| 6.9.1 | ? |")
    assert "no\\*" in lines[0]
    assert lines[0].endswith("| `x` in `struct y` |")
    assert lines[1].startswith("| 6.18.15 | yes |")
