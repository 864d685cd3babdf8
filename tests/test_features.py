"""Both readers see the same kernel: by debug information, and by sysfs, kallsyms, BTF, release."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from drgn import Program

from estimator.kernel import ksm_settings as of_debug_information
from estimator.ksm.features import FEATURES
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.procfs import running_kernel as of_files
from estimator.snapshot.flags import MappingFlag
from tests.small_btf import ENUM, FUNC, FUNC_PROTO, UNION, SmallBtf
from tests.synthetic import System, small

PRCTL, WALK, FOLIO = "ksm_enable_merge_any", "ksm_next_page_pmd_entry", "folio_walk_start"
FIRST = "try_to_merge_with_zero_page"
SPLIT = "struct rmap_walk_arg.map_unused_to_zeropage"
ZERO, SMART, ADVISOR = "ksm_zero_pages", "ksm_smart_scan", "ksm_advisor"
ORDERS = "anon_hpage_enabled"
INDEX = "struct ksm_rmap_item.linear_page_index"
INLINED = (FIRST, ORDERS)  # kallsyms need not have them, nor BTF
UNTIL_6_11 = [PRCTL, ZERO, SMART, ADVISOR]
SINCE_6_12 = [*UNTIL_6_11, FIRST, SPLIT, FOLIO]

# release, what its source has, parameters of gup_can_follow_protnone(), scanned, blocks
KERNELS: list[tuple[str, list[str], int | None, bool, bool]] = [
    ("5.10.100", [], None, True, False),
    ("5.10.251", [WALK], None, True, False),
    ("4.18.0-553.el8_10.x86_64", [], None, True, False),  # RHEL 8
    ("5.14.0-70.13.1.el9_0.x86_64", [], None, True, False),  # RHEL 9.0
    ("5.15.0-91-generic", [], None, True, False),  # Ubuntu 22.04
    ("5.15.200", [WALK], None, True, False),
    ("6.0.12", [], None, True, False),
    ("6.1.0-18-amd64", [], 1, False, False),
    ("6.1.160", [], 1, False, False),
    ("6.1.192+deb12-cloud-amd64", [WALK], 1, True, True),
    ("6.4.16", [PRCTL], 1, False, False),
    ("6.5.0", [PRCTL], 2, True, False),
    ("6.6.14", [PRCTL, ZERO], 2, True, False),
    ("6.6.140", [PRCTL, ZERO, WALK], 2, True, False),
    ("6.8.0-31-generic", UNTIL_6_11, 2, True, False),  # Ubuntu 24.04
    ("6.8.12", UNTIL_6_11, 2, True, False),
    ("6.11.9", [*UNTIL_6_11, FIRST], 2, True, False),
    ("6.12.0", SINCE_6_12, 2, True, False),
    ("6.12.117+deb12-cloud-amd64", [*SINCE_6_12, WALK], 2, True, False),
    ("6.14.0-24-generic", SINCE_6_12, 2, True, False),  # Ubuntu 25.04
    ("6.18.2", [*SINCE_6_12, WALK], 2, True, False),
    ("7.2.13", [*SINCE_6_12, WALK, ORDERS], 2, True, False),
    ("7.3.4", [*SINCE_6_12, WALK, ORDERS, INDEX], 2, True, False),
]


def by_debug_information(
    monkeypatch: pytest.MonkeyPatch,
    release: str,
    names: list[str],
    parameters: int | None,
    own: bool = False,
) -> dict[str, Any]:
    functions: dict[str, int] = {name: 0 for name in names if not own or name not in INLINED}
    if parameters is not None and not own:
        functions["gup_can_follow_protnone"] = parameters

    def function(name: str) -> Any:
        count = functions[name]
        return SimpleNamespace(type_=SimpleNamespace(parameters=[None] * count, is_variadic=False))

    prog = SimpleNamespace(
        function=function,
        variable=dict.fromkeys(names).__getitem__,
        constant=dict.fromkeys(["FOLL_HONOR_NUMA_FAULT"] * (parameters == 2)).__getitem__,
        enabled_type_finders=lambda: ["btf"] * own,
    )
    monkeypatch.setattr(of_debug_information, "upstream_release", lambda prog: release)
    monkeypatch.setattr(
        of_debug_information, "has_member", lambda prog, struct, path: f"{struct}.{path}" in names
    )
    return of_debug_information.features(cast(Program, prog))


def by_files(
    monkeypatch: pytest.MonkeyPatch,
    where: Path,
    release: str,
    names: list[str],
    kallsyms: bool = False,
    btf: bytes = b"",
) -> dict[str, Any]:
    ksm = where / "ksm"
    ksm.mkdir(exist_ok=True)
    for variable, file in of_files._FILES.items():
        if variable in names:
            (ksm / file).write_text("0\n")
    symbols = [name for name in names if name not in INLINED and name not in of_files._FILES]
    (where / "kallsyms").write_text(
        "".join(f"0000000000000000 t {name}.isra.0\n" for name in symbols if kallsyms)
    )
    monkeypatch.setattr(of_files, "_KSM", ksm)
    monkeypatch.setattr(of_files, "_KALLSYMS", where / "kallsyms")
    monkeypatch.setattr(of_files, "_BTF", where / "btf")
    (where / "btf").write_bytes(btf)
    return of_files.features(of_files.RunningKernel(), release)


def carried_types(names: list[str], parameters: int | None) -> bytes:
    """BTF of a kernel whose source has ``names``: what is inlined is not there."""
    btf = SmallBtf()
    long = btf.integer("long unsigned int", 8)
    for name in names:
        struct, _, member = name.removeprefix("struct ").partition(".")
        if member:  # in a union without a name, in there after another member
            inner = btf.struct("", 8, [("other", long, 0), (member, long, 0)], kind=UNION)
            btf.struct(struct, 16, [("first", long, 0), ("", inner, 64)])
        elif name not in INLINED and name not in of_files._FILES:
            btf.add(FUNC, name, btf.add(FUNC_PROTO))
    if parameters == 2:
        btf.add(
            ENUM, "", 4, btf.name("FOLL_WRITE"), 1, btf.name("FOLL_HONOR_NUMA_FAULT"), 2, members=2
        )
    return btf.bytes()


@pytest.mark.parametrize(("release", "names", "parameters", "scanned", "blocks"), KERNELS)
def test_readers_agree(
    release: str,
    names: list[str],
    parameters: int | None,
    scanned: bool,
    blocks: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = by_debug_information(monkeypatch, release, names, parameters)
    unseen = ["fork_counts_zero_pages"] * (ZERO in names and WALK not in names)
    unseen += ["counts_each_scanned_page"] * (ZERO in names and not {WALK, FOLIO} & set(names))
    assert seen["features_by_release"] == sorted(unseen)
    found = seen["features"]
    assert (found["scans_prot_none"], found["prot_none_blocks_tree"]) == (scanned, blocks)
    assert found["merge_any_prctl"] == (PRCTL in names)
    assert found["counts_zero_pages"] == (ZERO in names)
    assert found["fork_counts_zero_pages"] == (ZERO in names and WALK in names)
    each = (ZERO in names and bool({WALK, FOLIO} & set(names))) or release == "6.11.9"
    assert found["counts_each_scanned_page"] == each
    assert found["smart_scan"] == (SMART in names)
    assert found["advisor"] == (ADVISOR in names)
    assert found["skips_holes"] == (WALK in names)
    assert found["checksum_before_stable_tree"] == (FIRST in names)
    assert found["split_maps_zero_page"] == (SPLIT in names)
    own = by_debug_information(monkeypatch, release, names, parameters, own=True)
    assert own["features"] == found
    assert "checksum_before_stable_tree" in own["features_by_release"]
    assert "break_cow_forgets" not in own["features_by_release"]
    types = carried_types(names, parameters)
    carried = by_files(monkeypatch, tmp_path, release, names, btf=types)
    assert carried["features"] == found
    for told in ("split_maps_zero_page", "break_cow_forgets", "smart_scan"):
        assert told not in carried["features_by_release"]
    assert ("scans_prot_none" in carried["features_by_release"]) == (WALK not in names)
    for kallsyms in (False, True):
        files = by_files(monkeypatch, tmp_path, release, names, kallsyms)
        assert files["features"] == found
        assert ("merge_any_prctl" in files["features_by_release"]) == (
            not kallsyms or PRCTL not in names
        )
    monkeypatch.setattr(of_files, "_KSM", tmp_path / "none")  # the release alone
    monkeypatch.setattr(of_files, "_KALLSYMS", tmp_path / "none")
    (tmp_path / "btf").write_bytes(types[:-1])  # and BTF that is damaged
    alone = of_files.features(of_files.RunningKernel(), release)
    assert alone == {"features": found, "features_by_release": sorted(found)}


def test_what_a_distribution_backported_goes_before_its_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RHEL 9: 5.14 by name, with the mm of a later kernel."""
    names, release = [PRCTL, ZERO, WALK], "5.14.0-503.el9.x86_64"
    debug = by_debug_information(monkeypatch, release, names, 1)["features"]
    assert debug["merge_any_prctl"]
    assert debug["counts_zero_pages"]
    assert debug["prot_none_blocks_tree"]
    for seen in ({"kallsyms": True}, {"btf": carried_types(names, 1)}):
        files = by_files(monkeypatch, tmp_path, release, names, **seen)["features"]
        assert files["merge_any_prctl"]
        assert files["counts_zero_pages"]


def test_a_type_that_was_backported_is_seen_in_btf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, names = "6.12.0-100.el10.x86_64", [*SINCE_6_12, INDEX]
    for btf, seen in ((carried_types(names, 2), True), (b"", False)):
        found = by_files(monkeypatch, tmp_path, release, names, btf=btf)
        assert found["features"]["break_cow_forgets"] == seen
        assert ("break_cow_forgets" in found["features_by_release"]) == (not seen)


@pytest.mark.parametrize(
    ("release", "counts"),
    [("6.6.112", False), ("6.6.113", True), ("6.12.53", False), ("6.12.54", True)]
    + [("6.16.12", False), ("6.17.3", False), ("6.17.4", True), ("6.18.0", True)],
)
def test_whether_fork_counts_zero_pages_can_only_be_told_by_release(
    release: str, counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = by_debug_information(monkeypatch, release, SINCE_6_12, 2)["features"]
    assert found["fork_counts_zero_pages"] == counts


@pytest.mark.parametrize(
    ("release", "counts"),
    [("6.6.33", False), ("6.6.34", True), ("6.8.12", False), ("6.9.5", True), ("6.10.0", True)],
)
def test_whether_each_scanned_page_counts_the_release_tells(
    release: str, counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = by_debug_information(monkeypatch, release, UNTIL_6_11, 2)["features"]
    assert found["counts_each_scanned_page"] == counts


def test_parameters_are_counted_in_btf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    btf = SmallBtf()
    long = btf.integer("long unsigned int", 8)
    words = [btf.name("vma"), long, btf.name("flags"), long]
    btf.add(FUNC, "gup_can_follow_protnone", btf.add(FUNC_PROTO, "", long, *words, members=2))
    (tmp_path / "btf").write_bytes(btf.bytes())
    monkeypatch.setattr(of_files, "_BTF", tmp_path / "btf")
    kernel = of_files.RunningKernel()
    assert kernel.function_parameters("gup_can_follow_protnone") == 2
    assert kernel.function_parameters("ksm_madvise") is None
    (tmp_path / "btf").unlink()
    assert of_files.RunningKernel().function_parameters("gup_can_follow_protnone") is None


def test_sizes_of_structs_are_those_of_slab_then_of_btf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_files, "_SLAB", tmp_path)
    monkeypatch.setattr(of_files, "_BTF", tmp_path / "btf")
    names = ["ksm_rmap_item", "ksm_stable_node", "ksm_mm_slot"]

    def sizes() -> tuple[dict[str, int], list[str]]:
        return of_files.struct_sizes(of_files.RunningKernel())

    assert sizes() == (dict(zip(names, (64, 64, 48), strict=True)), names)
    (tmp_path / ":0000072").mkdir()
    (tmp_path / ":0000072" / "object_size").write_text("72\n")
    (tmp_path / names[0]).symlink_to(":0000072")  # SLAB_MERGE
    (tmp_path / names[1]).mkdir()
    (tmp_path / names[1] / "object_size").write_text("80\n")
    assert sizes() == (dict(zip(names, (72, 80, 48), strict=True)), names[2:])
    btf = SmallBtf()
    for name in names:
        btf.struct(name, 56, [])
    (tmp_path / "btf").write_bytes(btf.bytes())
    assert sizes() == (dict(zip(names, (72, 80, 56), strict=True)), [])


@pytest.mark.parametrize(("release", "names", "parameters", "scanned", "blocks"), KERNELS)
def test_prot_none_pages_are_candidates_where_the_kernel_scans_them(
    release: str,
    names: list[str],
    parameters: int | None,
    scanned: bool,
    blocks: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = System()
    system.features = by_debug_information(monkeypatch, release, names, parameters)["features"]
    for _ in range(2):
        system.process(*small(*range(10)), flags=MappingFlag.PROT_NONE)
    found = predict(system.snapshot(), Policy(scope="enabled"))
    assert found.counters["ksm_rmap_items"] == 20 * scanned
    assert found.counters["pages_sharing"] == 10 * (scanned and not blocks)


def test_every_difference_is_named_once() -> None:
    names = [feature.name for feature in FEATURES]
    assert len(set(names)) == len(names)
    assert set(names) == set(System().features)
