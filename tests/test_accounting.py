"""One accounting of freed frames: credits, contributions and counters are of the same frames."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from estimator.advice.attribution import contributions, scanned_pages
from estimator.advice.borders import borders
from estimator.advice.frontier import Peeling
from estimator.advice.patterns import patterns
from estimator.advice.verdict import savings
from estimator.ksm.accounting import slab_bytes
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Outcome, Prediction
from estimator.ksm.sharing import KEYS
from estimator.report.as_json import prediction_json
from estimator.report.words import verdict
from estimator.snapshot.flags import FrameFlag, MappingFlag, Unknown
from estimator.snapshot.snapshot import Snapshot
from tests.synthetic import Frame, System, folio, small
from tests.test_model_closed_forms import frames, systems

ENABLED = Policy(scope="enabled")


def credited(snapshot: Snapshot, prediction: Prediction) -> float:
    """The column "frees" of a report, summed."""
    return float(contributions(snapshot, prediction)["saved_pages"].sum())


def freed(prediction: Prediction) -> int:
    return prediction.physical["frames_freed"]


@st.composite
def worn(draw: st.DrawFn) -> Snapshot:
    """Random systems with huge pages of which pieces are gone, and pages that keep changing."""
    system = draw(systems())
    for _ in range(draw(st.integers(0, 3))):
        pieces = folio(draw(st.lists(st.integers(0, 3), min_size=8, max_size=8)))
        mapped = draw(st.lists(st.sampled_from(pieces), min_size=1, max_size=8, unique_by=id))
        owner = system.process(*mapped)
        if draw(st.booleans()):
            system.fork(owner, 1)
        if draw(st.booleans()):
            owner.map(draw(st.lists(st.sampled_from(pieces), max_size=3)), mergeable=False)
        owner.map(draw(frames(3, huge=True)))
    snapshot = system.snapshot()
    flags = snapshot.mappings["flags"].to_numpy().copy()
    if draw(st.booleans()):
        for row in draw(st.lists(st.integers(0, len(flags) - 1), max_size=6)):
            flags[row] |= np.uint8(MappingFlag.CHANGED)
        snapshot.info["passes"] = {"count": 2}
    snapshot.mappings["flags"] = flags
    return snapshot


@given(worn(), st.sampled_from([None, 2, 300]))
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_contributions_add_up_to_what_is_freed(snapshot: Snapshot, limit: int | None) -> None:
    """Whatever is split, copied, kept by others, changing or unmerged before (another limit)."""
    prediction = predict(snapshot, Policy(scope="enabled", max_page_sharing=limit))
    assert credited(snapshot, prediction) == pytest.approx(freed(prediction))
    table = contributions(snapshot, prediction)
    if len(table):
        net = prediction.physical["net_bytes_saved"]
        assert table["net_bytes"].sum() == pytest.approx(net, abs=1e-3)
    assert table["scanned_pages"].sum() == scanned_pages(prediction)
    for by in KEYS:
        assert prediction.pairs(by)["saved_pages"].sum() == pytest.approx(freed(prediction))
    apart = borders(snapshot, prediction, np.arange(len(snapshot.processes)))
    assert apart.within + apart.across == pytest.approx(freed(prediction))
    before, after = (prediction.physical[f"frames_{when}"] for when in ("before", "after"))
    assert before - after == freed(prediction)


@st.composite
def two_looks(draw: st.DrawFn) -> tuple[Snapshot, Snapshot]:
    """A random system, and the same one later: some frames have other bytes."""
    first = draw(worn())
    frames = first.frames
    known = np.flatnonzero(frames["unknown"].to_numpy() == Unknown.HASHED)
    written = draw(st.lists(st.sampled_from(known.tolist()), min_size=1, max_size=8, unique=True))
    hashes = frames["hash"].copy()
    hashes.iloc[written] = [2**63 + n for n in range(len(written))]
    return first, replace(first, frames=frames.assign(hash=hashes))


@given(two_looks(), st.booleans())
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_frames_that_changed_are_never_freed(
    looks: tuple[Snapshot, Snapshot], use_zero_pages: bool
) -> None:
    first, later = looks
    policy = Policy(scope="enabled", use_zero_pages=use_zero_pages)
    prediction = predict(first, policy, later=later)
    assert credited(first, prediction) == pytest.approx(freed(prediction))
    written = (first.frames["hash"] != later.frames["hash"]).fillna(False).to_numpy(np.bool_)
    assert not (prediction.freed.gone[: len(written)] & written).any()
    of_row = written[first.mappings["frame_id"].to_numpy()]
    assert not (prediction.converted & of_row).any()


def test_a_piece_that_was_written_is_not_freed_whoever_maps_it() -> None:
    """The split of a huge page takes its zero-filled pieces, in VMAs that take no part as well."""

    def system(last: int) -> System:
        made = System(use_zero_pages=0)
        pages = folio([7, 8, 9, last])
        made.process(*pages[:3])
        made.process(pages[3], mergeable=False)
        made.process(*small(7))
        return made

    still, written = (system(last).snapshot() for last in (0, 5))
    assert freed(predict(still, ENABLED)) == 2
    found = predict(still, ENABLED, later=written)
    assert freed(found) == 1
    assert not found.freed.gone[3]


def test_unmapped_pieces_are_credited_to_who_has_the_huge_page_scanned() -> None:
    """A huge page of 16 with 6 pieces mapped: the merge of one frees it and the 10 nobody maps."""
    system = System()
    system.process(*folio([7, *range(20, 35)])[:6])
    system.process(*small(7))
    snapshot = system.snapshot()
    prediction = predict(snapshot, ENABLED)
    assert freed(prediction) == 11
    table = contributions(snapshot, prediction)
    assert table["saved_pages"].tolist() == pytest.approx([10.5, 0.5])
    found = patterns(snapshot, prediction, np.array([0, 1]))
    peeling = Peeling(found, 2)
    assert (peeling.saved_pages, peeling.loss_pages.tolist()) == (11, [11, 1])


def test_pieces_that_proc_does_not_tell_of_are_named() -> None:
    """10 pieces without a mapping: not freed where the folio's mapcount is not known, but told.

    Only where ksmd splits the huge page.
    """
    for other, split in ((7, True), (8, False)):
        system = System()
        system.process(*folio([7, *range(20, 35)])[:6])
        system.process(*small(other))
        snapshot = system.snapshot()
        seen = np.where(snapshot.frames["order"] > 0, -1, 1).astype(np.int32)
        frames = snapshot.frames.assign(folio_mapcount=seen, refcount=seen)
        found = predict(replace(snapshot, frames=frames), ENABLED)
        assert freed(found) == int(split)
        text = "would split large folios with 10 pages that no process was found to map"
        assert any(text in warning for warning in found.warnings) == split
        assert not any(text in warning for warning in predict(snapshot, ENABLED).warnings)


def test_a_copy_is_a_debit() -> None:
    """A pinned page first: break_cow() of one of two that share the other frame."""
    system = System("6.1")
    shared = Frame(1)
    for frame in (Frame(1, pins=1), shared, shared):
        system.process(frame)
    snapshot = system.snapshot()
    prediction = predict(snapshot, ENABLED)
    copies = len(prediction.freed.copied)
    assert copies == 1
    of_row = prediction.credits.of_row[:]
    assert freed(prediction) == -copies
    assert np.flatnonzero(of_row < 0).tolist() == sorted(prediction.freed.copied.tolist())
    assert credited(snapshot, prediction) == -copies


def test_credits_are_worked_out_once_and_no_copy_carries_them() -> None:
    system = System()
    system.processes_with(small(7), small(7, 8))
    prediction = predict(system.snapshot(), ENABLED)
    before = prediction_json(prediction)
    assert prediction.credits is prediction.credits
    assert prediction_json(prediction) == before
    copied = pickle.loads(pickle.dumps(prediction))
    assert "credits" in vars(prediction)
    assert "credits" not in vars(copied)
    assert copied.credits.of_row[:].tolist() == [0.5, 0.5, 0]
    assert prediction.credits.of_row[:].tolist() == [0.5, 0.5, 0]


def test_a_piece_that_nobody_has_scanned_goes_with_its_folio() -> None:
    """The zero-filled piece lies in a VMA that takes no part; the split takes it all the same."""
    pieces = folio([7, 0, 21, 22])
    system = System()
    process = system.process(pieces[0], *pieces[2:])
    process.map([pieces[1]], mergeable=False)
    system.process(*small(7))
    snapshot = system.snapshot()
    prediction = predict(snapshot, ENABLED)
    assert freed(prediction) == 2
    assert credited(snapshot, prediction) == pytest.approx(2)


def test_changing_zero_pieces_are_volatile_and_not_freed() -> None:
    """Written since: the split of the huge page no longer finds them zero-filled."""
    pieces = folio([0] * 6 + [7, 8])
    system = System()
    system.process(*pieces)
    system.process(*small(7))
    snapshot = system.snapshot()
    assert freed(predict(snapshot, ENABLED)) == 6 + 1
    flags = snapshot.mappings["flags"].to_numpy().copy()
    flags[:2] |= np.uint8(MappingFlag.CHANGED)
    snapshot.mappings["flags"] = flags
    snapshot.info["passes"] = {"count": 2}
    prediction = predict(snapshot, ENABLED)
    assert prediction.outcome[:6].tolist() == [Outcome.VOLATILE] * 2 + [Outcome.SPLIT_AWAY] * 4
    assert prediction.vmas["split_away_pages"].tolist() == [4, 0]
    assert freed(prediction) == 4 + 1
    assert credited(snapshot, prediction) == pytest.approx(5)


def test_the_saving_is_part_of_the_memory_it_is_compared_with() -> None:
    """One piece in 512 is mapped: what a split frees is part of the whole, not 512 times it."""
    system = System()
    for _ in range(40):
        system.process(folio([7] * 512)[0])
    snapshot = system.snapshot()
    prediction = predict(snapshot, ENABLED)
    found = savings(snapshot, prediction)
    assert found.anonymous_bytes == prediction.physical["frames_before"] * 4096 == 40 * 512 * 4096
    sentence = verdict(prediction.policy, found, prediction.coverage)
    assert "99.99% of 80.0 MiB" in sentence  # its mm slot is there already


@pytest.mark.parametrize("flag", [FrameFlag.SWAPCACHE])
def test_pieces_of_a_folio_in_the_swap_cache_are_not_counted(flag: FrameFlag) -> None:
    system = System()
    system.process(*folio([7, 20, 21, 22], flags=FrameFlag.LRU | flag)[:2])
    system.process(*small(7))
    prediction = predict(system.snapshot(), ENABLED)
    assert prediction.physical["frames_before"] == 3


@pytest.mark.parametrize(
    ("objects", "object_bytes", "pages"), [(0, 64, 0), (1, 64, 1), (64, 64, 1), (65, 64, 2)]
)
def test_slab_pages_are_rounded_up(objects: int, object_bytes: int, pages: int) -> None:
    assert slab_bytes(objects, object_bytes, 4096) == pages * 4096


def test_every_selected_mm_on_the_list_has_a_slot() -> None:
    """85 of 48 bytes fit into a page."""
    system = System()
    for content in range(200):
        system.process(*small(content + 1))
    physical = predict(system.snapshot(), ENABLED).physical
    parts = ("rmap_items_bytes", "stable_nodes_bytes", "mm_slots_bytes")
    assert physical["mm_slots_bytes"] == 3 * 4096
    assert physical["overhead_bytes"] == sum(physical[part] for part in parts)
    one = predict(system.snapshot(), Policy(scope="enabled", pids=(100,))).physical
    assert one["mm_slots_bytes"] == 4096
    snapshot = system.snapshot()
    snapshot.processes["scan_order"] = -1
    nobody = predict(snapshot, ENABLED).physical
    assert nobody["overhead_bytes"] == nobody["net_bytes_saved"] == 0
    assert predict(snapshot, Policy(scope="all")).physical["mm_slots_bytes"] == 3 * 4096


def test_records_that_are_there_already_are_not_charged_again() -> None:
    system = System()
    merged = Frame(7)
    system.stable_node(merged)
    system.process(merged, flags=MappingFlag.MERGED)
    snapshot = system.snapshot()
    snapshot.processes["ksm_rmap_items"] = 1
    physical = predict(snapshot, ENABLED).physical
    net = physical["net_bytes_saved"] - physical["bytes_saved"]
    assert min(physical[f"{name}_bytes"] for name in ("rmap_items", "stable_nodes", "mm_slots")) > 0
    assert net == 0


def test_chains_that_are_there_already_are_not_charged_again() -> None:
    """60 nodes in 30 chains: 90 records of 64 bytes, two slab pages; items of others are none."""
    system = System(max_page_sharing=2)
    nodes = [Frame(1 + number // 2) for number in range(60)]
    for number, frame in enumerate(nodes):
        system.stable_node(frame, chain=number // 2)
    process = system.process(*nodes, flags=MappingFlag.MERGED)
    process.map(nodes, MappingFlag.MERGED)
    system.process(*small(*range(100, 300)))
    snapshot = system.snapshot()
    snapshot.processes["ksm_rmap_items"] = [120, 200]
    physical = predict(snapshot, Policy(scope="enabled", pids=(100,))).physical
    assert physical["stable_nodes_bytes"] == physical["rmap_items_bytes"] == 2 * 4096
    assert physical["net_bytes_saved"] == physical["bytes_saved"]


def test_an_mm_off_the_list_takes_no_part_in_what_is_enabled() -> None:
    """Its VMAs are VM_MERGEABLE, but ksmd never comes by."""
    system = System()
    system.process(*small(7))
    system.process(*small(7))
    assert freed(predict(system.snapshot(), ENABLED)) == 1
    system.processes[1].listed = False
    prediction = predict(system.snapshot(), ENABLED)
    assert (freed(prediction), prediction.coverage.candidate_pages) == (0, 1)
