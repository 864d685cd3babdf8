"""A prediction worked out in parts of the range of hashes is the one worked out at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from io import StringIO
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from estimator import arrays
from estimator.ksm import content_parts
from estimator.ksm.hash_parts import Workroom
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.report.as_json import prediction_json
from estimator.report.text import Tables, render_story
from estimator.snapshot.flags import AHEAD, FrameFlag, MappingFlag
from estimator.snapshot.snapshot import mapping_mm
from tests.synthetic import Frame, System, folio, small
from tests.systems import fork_server
from tests.test_model_closed_forms import systems


def _used_before(count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """As ``np.empty``, where nothing happens to be 0."""
    return np.frombuffer(bytearray(b"\x5a") * (count * np.dtype(dtype).itemsize), dtype)


class Rooms:
    """A ``Workroom`` for parts of at most ``most`` mappings. ``asked``: what had to be in one."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.asked: list[tuple[int, str]] = []

    def room(self) -> Workroom:
        return Workroom(_used_before, lambda mappings, _: mappings <= self.most, self._require)

    def _require(self, mappings: int, frames: int, why: str) -> None:
        self.asked.append((mappings, why))


def story(prediction: Prediction) -> str:
    """What ``report`` prints."""
    written = StringIO()
    render_story(prediction.snapshot, prediction, Console(file=written, width=200), Tables(top=0))
    return written.getvalue()


def same(one: Prediction, other: Prediction) -> None:
    assert json.dumps(prediction_json(one)) == json.dumps(prediction_json(other))
    for name in ("outcome", "stable_node", "content"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for field in fields(one.freed):
        ours, theirs = (getattr(each.freed, field.name) for each in (one, other))
        np.testing.assert_array_equal(ours, theirs, err_msg=field.name)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems(), st.sampled_from(["all", "enabled"]), st.sampled_from([0, 5, 40]), st.data())
def test_in_parts_it_is_the_same(
    system: System, scope: Literal["all", "enabled"], most: int, data: st.DataObject
) -> None:
    snapshot = system.snapshot()
    if data.draw(st.booleans()):  # several passes: some pages changed
        random = np.random.default_rng(data.draw(st.integers(0, 99)))
        bits = [0, MappingFlag.COMPARED, MappingFlag.COMPARED | MappingFlag.CHANGED]
        bits += [MappingFlag.COMPARED | MappingFlag.CHANGED_BEFORE]
        flags = snapshot.mappings["flags"].to_numpy()
        flags = flags | random.choice(np.array(bits, np.uint8), len(flags), p=[0.2, 0.5, 0.2, 0.1])
        passes = snapshot.info | {"passes": {"count": 2}}
        mappings = snapshot.mappings.assign(flags=flags)
        snapshot = replace(snapshot, info=passes, mappings=mappings)
    if data.draw(st.booleans()):
        snapshot = replace(snapshot, info=snapshot.info | {"damon_awake": 1})
    if data.draw(st.booleans()):  # ksmd has scanned: with smart_scan it tells pages apart
        random = np.random.default_rng(data.draw(st.integers(0, 99)))
        of_mm = random.choice(np.array([0, 3, 14, 18, 14 | AHEAD], np.uint8), 99)
        visits = of_mm[mapping_mm(snapshot)]
        snapshot = replace(snapshot, mappings=snapshot.mappings.assign(visits=visits))
    policy = Policy(scope=scope)
    if data.draw(st.booleans()):
        pids = tuple(snapshot.processes["pid"].iloc[:2].tolist())
        policy = replace(policy, pids=pids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content_parts, "_ROWS_OF_A_PART", 20)
        whole = predict(snapshot, policy)
        told = story(whole)
        patch.setattr(arrays, "_PIECE_ROWS", 16)
        parts = predict(snapshot, policy, room=Rooms(most).room())
        assert story(parts) == told
        patch.setattr(arrays, "_MANY_ROWS", 16)
        patch.setattr(arrays, "THREADS", 3)
        side_by_side = predict(snapshot, policy)
    same(parts, whole)
    same(side_by_side, whole)


def test_a_real_system_has_many_parts() -> None:
    snapshot = fork_server()
    fewest, sizes = len(snapshot.mappings) // 3, []

    def fits(mappings: int, frames: int) -> bool:
        sizes.append(mappings)
        return mappings <= fewest

    room = replace(Rooms(0).room(), fits=fits)
    parts, whole = predict(snapshot, room=room), predict(snapshot)
    same(parts, whole)
    assert story(parts) == story(whole)
    assert sum(size > fewest for size in sizes) >= 2  # so often a part was full


def _forked_and_crowded() -> System:
    """More copies of a page than max_page_sharing, shared by fork: simulated in ksmd's order."""
    system = System(max_page_sharing=4)
    parent = system.process(*small(7, 7, 7, *system.unique(20)))
    system.fork(parent, 3)
    return system


def _twins_in_huge_pages() -> System:
    system = System()
    system.processes_with(folio([1, 2, 3, 4]), folio([1, 5, 6, 0]), small(2, 9, 9, 0))
    return system


@pytest.mark.parametrize("make", [_forked_and_crowded, _twins_in_huge_pages])
def test_what_is_tied_goes_together_and_last(make: Callable[[], System]) -> None:
    snapshot, rooms = make().snapshot(), Rooms(0)
    same(predict(snapshot, room=rooms.room()), predict(snapshot))
    mappings, why = rooms.asked[-1]
    assert why == "contents in huge pages, or simulated, go together"
    assert 0 < mappings < len(snapshot.mappings)
    assert {why for _, why in rooms.asked[:-1]} == {"equal pages go together"}


def test_what_a_huge_page_has_once_is_no_tie() -> None:
    system = System()
    system.process(*folio(system.unique(8)))
    system.processes_with(small(1), small(1))
    rooms = Rooms(0)
    same(predict(system.snapshot(), room=rooms.room()), predict(system.snapshot()))
    assert {why for _, why in rooms.asked} == {"equal pages go together"}


def test_unknown_and_tagged_pages_and_no_page_at_all() -> None:
    system = System()
    tagged = [Frame(1, flags=FrameFlag.LRU | FrameFlag.MTE) for _ in range(3)]
    system.processes_with(small(1, 1, None, None, 2), tagged, small(2, None))
    for snapshot in (system.snapshot(), System().snapshot()):
        same(predict(snapshot, room=Rooms(0).room()), predict(snapshot))
