"""Without debug symbols: types and symbols that the kernel carries give the same snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import drgn
import pandas as pd
import pytest
from drgn import Architecture, Platform, Program

from estimator.kernel.collect import collect
from estimator.kernel.core import open_core
from estimator.kernel.symbols import OWN
from estimator.kernel.target import Target
from estimator.kernel.variables import TYPES
from estimator.snapshot.snapshot import Snapshot
from tests.lab.conftest import RunWorkload, lab_kernel, newest_and_oldest
from tests.lab.kernels import SERIES, WITHOUT_SYMBOLS
from tests.lab.spoiled import with_wrong_note, without_note
from tests.lab.verdict import judge
from tests.lab.workload import run_workload
from tests.lab.workloads import find

pytestmark = pytest.mark.lab

MERGED = find("merged-before", "6.12")
TABLES = ("processes", "vmas", "mappings", "frames", "stable_nodes", "stable_items")
OF_THE_MOMENT = ("collected_at", "collect_seconds")
OF_THE_SYMBOLS = ("symbols", "features_by_release")
INLINED = {"checksum_before_stable_tree", "khugepaged_any_order", "merge_any_prctl"}


@pytest.fixture(scope="module", params=newest_and_oldest(SERIES))
def dump(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    vmcore = tmp_path_factory.mktemp("carried") / "vmcore"
    run_workload(MERGED, lab_kernel(request.param), vmcore)
    yield request.param, vmcore
    vmcore.unlink()


@pytest.fixture(scope="module")
def own(dump: tuple[str, Path]) -> Iterator[Target]:
    with open_core(dump[1], [OWN]) as target:
        yield target


def snapshot_with(vmcore: Path, symbols: Path) -> Snapshot:
    with open_core(vmcore, [symbols]) as target:
        return collect(target, seed=0)


def test_the_snapshot_is_the_same_to_the_bit(dump: tuple[str, Path]) -> None:
    series, vmcore = dump
    ours = snapshot_with(vmcore, OWN)
    theirs = snapshot_with(vmcore, lab_kernel(series).vmlinux)
    assert len(ours.stable_nodes) > 100
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(ours, name), getattr(theirs, name))
    different = {key for key in ours.info if ours.info[key] != theirs.info[key]}
    assert different <= {*OF_THE_MOMENT, *OF_THE_SYMBOLS}
    assert (ours.info["symbols"], theirs.info["symbols"]) == ("BTF", "debug information")
    assert theirs.info["features_by_release"] == []
    assert set(ours.info["features_by_release"]) - {"prot_none_blocks_tree"} <= INLINED


@pytest.mark.parametrize(
    ("spoil", "said"), [(without_note, "was missing"), (with_wrong_note, "does not fit the memory")]
)
def test_a_dump_without_a_right_note_gives_the_same(
    spoil: Callable[[Path, Path], Path], said: str, dump: tuple[str, Path], tmp_path: Path
) -> None:
    _, vmcore = dump
    twin = spoil(vmcore, tmp_path / "twin")
    ours, theirs = snapshot_with(twin, OWN), snapshot_with(vmcore, OWN)
    twin.unlink()
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(ours, name), getattr(theirs, name))
    (warning,) = ours.info["source"]["warnings"]
    assert f"the VMCOREINFO note {said}; found in memory, at physical 0x" in warning


PAIRS = (("partial", "huge-duplicates"), ("pinned-pipe", "merged-before"))
CASES = [
    (name, series) for number, series in enumerate(WITHOUT_SYMBOLS) for name in PAIRS[number % 2]
]


@pytest.mark.parametrize(("name", "series"), CASES)
def test_prediction_equals_ksmd_where_there_are_no_symbols(
    name: str, series: str, lab: RunWorkload
) -> None:
    verdict = judge(lab(find(name, "6.12"), series))
    assert verdict.snapshot.info["symbols"] == "BTF"
    assert verdict.differences == {}


def test_variables_are_declared_as_debug_information_says(
    dump: tuple[str, Path], own: Target
) -> None:
    debug = Program(Platform(Architecture.X86_64))
    debug.extra_module("kernel", create=True).try_file(lab_kernel(dump[0]).vmlinux, force=True)
    compared = 0
    for name in TYPES:
        try:
            expected = debug.variable(name).type_
        except LookupError:
            with pytest.raises(LookupError):
                own.prog.variable(name)
            continue
        found = own.prog.variable(name).type_
        compared += 1
        if expected.kind == drgn.TypeKind.ARRAY:
            assert found.kind == drgn.TypeKind.ARRAY, name
            assert found.length >= expected.length, name
            found, expected = found.type, expected.type
        assert outline(found) == outline(expected), name
    assert compared > 35


def outline(type_: drgn.Type) -> tuple[object, ...]:
    """What a type means for who reads it; typedefs and signs have changed over time."""
    type_ = type_.unaliased()
    if type_.kind == drgn.TypeKind.POINTER:
        return type_.kind, outline(type_.type)
    members = (
        tuple((member.name, member.bit_offset) for member in type_.members or ())
        if (type_.kind in (drgn.TypeKind.STRUCT, drgn.TypeKind.UNION))
        else ()
    )
    return type_.kind, drgn.sizeof(type_), members


def test_arrays_whose_length_decides_are_as_long_as_they_are(
    dump: tuple[str, Path], own: Target
) -> None:
    debug = Program(Platform(Architecture.X86_64))
    debug.extra_module("kernel", create=True).try_file(lab_kernel(dump[0]).vmlinux, force=True)
    assert len(own.prog["node_data"]) == debug.variable("node_data").type_.length
