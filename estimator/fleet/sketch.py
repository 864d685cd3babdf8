"""Small samples of what a machine or service has in memory: how much two of them have in common.

A sketch keeps the ``SIZE`` smallest hashes of the contents of a unit, of which every content has
the same chance to be among them: a sample that is the same for everybody who has that content
(bottom-k; Cohen and Kaplan 2007, Broder 1997). Two units are compared below the lower of their
greatest hashes; the share of contents in common has a standard error of at most 0.5 / sqrt(SIZE),
0.8 %. A unit with no more contents than that is known in full.

The hashes are those of the snapshot: who has a sketch and the seed can test guesses of a page's
content, so a sketch is as secret as a snapshot, if smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from estimator.advice.attribution import page_bytes
from estimator.advice.host import machine_names
from estimator.arrays import Words
from estimator.errors import CannotAnswerError, TargetError, UsageError
from estimator.fleet.kinds import kind_of
from estimator.fleet.storage import first_line
from estimator.ksm.policy import Policy
from estimator.ksm.predict import ask
from estimator.snapshot.identity import Identity
from estimator.snapshot.names import units_of
from estimator.snapshot.snapshot import Snapshot, mapping_mm

SIZE = 4096
_ALL = 1 << 64
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("seed_id", "host", "unit")),
        ("machine", pa.bool_()),
        *((name, pa.int64()) for name in ("page_bytes", "memory_pages", "frames", "contents")),
        ("hashes", pa.list_(pa.uint64())),
        ("copies", pa.list_(pa.uint32())),
    ]
)


@dataclass(frozen=True, eq=False)
class Sketch:
    """Of one virtual machine or service of one host.

    ``machine``: it is a virtual machine. ``memory_pages``: frames that it maps, known or not;
    ``frames``: those of them that can merge and were read; ``contents``: how many different ones.
    ``hashes``: u64, ascending, mixed; ``copies``: u32, frames of each.
    """

    seed_id: str
    host: str
    unit: str
    machine: bool
    page_bytes: int
    memory_pages: int
    frames: int
    contents: int
    hashes: Words
    copies: npt.NDArray[np.uint32]

    @property
    def self_sharing_pages(self) -> int:
        """Frames that merging within the unit alone frees."""
        return self.frames - self.contents

    @property
    def below(self) -> int:
        """All contents whose hash is less than this are in the sketch."""
        return _ALL if len(self.hashes) == self.contents else int(self.hashes[-1]) + 1


def sketches(snapshot: Snapshot, policy: Policy | None = None, size: int = SIZE) -> list[Sketch]:
    """One per virtual machine, and one per service of what else takes part; raises as ``predict``.

    Raises CannotAnswerError where the snapshot does not say which seed its hashes have.
    """
    seed_id = snapshot.info.get("hash", {}).get("seed_id")
    if seed_id is None:
        raise CannotAnswerError(
            "the snapshot does not name the seed of its hashes", hint="collect it again"
        )
    case = ask(snapshot, policy).case
    processes = snapshot.processes
    names = machine_names(processes)
    machine = names != ""
    kinds = [kind_of(name) for name in units_of(processes["cgroup"])]
    unit, units = pd.factorize(np.where(machine, names, kinds))
    is_machine = np.zeros(len(units), np.bool_)
    is_machine[unit[machine]] = True
    rows = case.candidates.row_numbers()
    pairs = pd.DataFrame(
        {"unit": unit[mapping_mm(snapshot)[rows]], "frame": case.candidates.frame}
    ).drop_duplicates()
    pairs["mergeable"] = (case.facts.known & ~case.facts.blocked)[pairs["frame"].to_numpy()]
    hashes = snapshot.frames["hash"].to_numpy(np.uint64, na_value=0)
    found = []
    for number, name in enumerate(units):
        group = pairs[pairs["unit"] == number]
        if group.empty:
            continue
        frames = group.loc[group["mergeable"], "frame"].to_numpy()
        contents, copies = np.unique(_mixed(hashes[frames]), return_counts=True)
        found.append(
            Sketch(
                seed_id=str(seed_id),
                host=Identity.of(snapshot.info).host or "(unnamed)",
                unit=str(name),
                machine=bool(is_machine[number]),
                page_bytes=page_bytes(snapshot),
                memory_pages=len(group),
                frames=len(frames),
                contents=len(contents),
                hashes=contents[:size],
                copies=copies[:size].astype(np.uint32),
            )
        )
    return found


def _mixed(hashes: Words) -> Words:
    """One to one, and even where the hashes are not (the finalizer of splitmix64)."""
    mixed = hashes.copy()
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def similarity(one: Sketch, other: Sketch) -> float:
    """Contents in common, of those that any of both has (Jaccard); 0 where neither has any."""
    below = min(one.below, other.below)
    first, second = (_sample(sketch, below) for sketch in (one, other))
    common = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - common
    return common / union if union else 0.0


def shared_pages(one: Sketch, other: Sketch) -> float:
    """Contents that both have: the frames that are freed when the two stand together."""
    alike = similarity(one, other)
    return alike * (one.contents + other.contents) / (1 + alike)


def _sample(sketch: Sketch, below: int) -> Words:
    return sketch.hashes[: np.searchsorted(sketch.hashes, np.uint64(below - 1), side="right")]


def require_one_seed(found: Sequence[Sketch]) -> None:
    """Raise UsageError where hashes of two seeds would be compared: nothing would be equal."""
    first = found[0]
    for each in found:
        if each.seed_id != first.seed_id:
            raise UsageError(
                f"{first.host} and {each.host} were hashed with two seeds: nothing can be compared",
                hint="collect all of them with one --seed-file",
            )
        if each.page_bytes != first.page_bytes:
            raise UsageError(f"{first.host} and {each.host} have pages of two sizes")


def write_sketches(found: Sequence[Sketch], path: Path) -> int:
    """A row each, to the file ``path``: how many there are. Raises OSError."""
    rows = [{name: getattr(one, name) for name in _SCHEMA.names} for one in found]
    table = pa.Table.from_pylist(rows, _SCHEMA)
    pq.write_table(table, path, compression="zstd", use_dictionary=["seed_id", "host", "unit"])
    return len(rows)


def read_sketches(paths: Sequence[Path]) -> list[Sketch]:
    """All of the files ``paths``; raises TargetError for what is none, UsageError for two seeds.

    A unit of a host that is there twice is refused: it would be shared with itself.
    """
    found: list[Sketch] = []
    for path in paths:
        try:
            table = pq.read_table(path)
            if table.schema.names != _SCHEMA.names:
                raise pa.ArrowInvalid("its columns are others")
            rows = table.cast(_SCHEMA).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise TargetError(
                f"{path} is no sketch: {first_line(error)}",
                hint="make one with: ksm-estimator fleet sketch SNAPSHOT -o FILE",
            ) from error
        for row in rows:
            hashes = np.array(row.pop("hashes"), np.uint64)
            copies = np.array(row.pop("copies"), np.uint32)
            found.append(Sketch(hashes=hashes, copies=copies, **row))
    if not found:
        raise CannotAnswerError("there is no unit in these sketches")
    require_one_seed(found)
    names = pd.Series([f"{one.unit} of {one.host}" for one in found])
    if (twice := names[names.duplicated()]).size:
        raise UsageError(f"{twice.iloc[0]} is there twice", hint="name each host's sketch once")
    return found
