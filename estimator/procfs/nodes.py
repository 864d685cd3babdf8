"""NUMA nodes of frames, from sysfs and /proc/zoneinfo."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from estimator.arrays import Words
from estimator.procfs.page_size import PAGE_BYTES
from estimator.procfs.processes import PROC
from estimator.snapshot.flags import UNKNOWN_NODE

_NODES = Path("/sys/devices/system/node")
_MEMORY = Path("/sys/devices/system/memory")
_ZONE = re.compile(r"^Node (\d+), zone|^ +spanned +(\d+)|^ +start_pfn: +(\d+)", re.MULTILINE)


def nodes_of(pfns: Words) -> npt.NDArray[np.uint16]:
    """The node of each of the frames ``pfns``, u16; UNKNOWN_NODE where /proc does not tell.

    sysfs says which nodes have frames in a memory block (128 MiB or more), /proc/zoneinfo from
    where to where the zones of a node reach. Blocks can have frames of several nodes, and zones can
    have those of another node inside: a frame's node is known if only one node passes both.
    """
    directories = list(_NODES.glob("node[0-9]*"))
    if len(directories) < 2:
        return np.zeros(len(pfns), np.uint16)
    zones = _zones()
    nodes = np.full(len(pfns), UNKNOWN_NODE, np.uint16)
    claims = np.zeros(len(pfns), np.uint16)
    for directory in directories:
        number = int(directory.name.removeprefix("node"))
        here = _in_blocks(pfns, directory) & _in_zones(pfns, zones, number)
        nodes[here] = number
        claims += here
    nodes[claims > 1] = UNKNOWN_NODE
    return nodes


def _in_blocks(pfns: Words, directory: Path) -> npt.NDArray[np.bool_]:
    """Which frames are in a memory block of the node; all if the kernel has no such blocks."""
    try:
        block_pages = int((_MEMORY / "block_size_bytes").read_text(), 16) // PAGE_BYTES
    except OSError:  # no CONFIG_MEMORY_HOTPLUG
        return np.ones(len(pfns), np.bool_)
    names = (path.name.removeprefix("memory") for path in directory.glob("memory[0-9]*"))
    return np.isin(pfns // np.uint64(block_pages), np.array([*map(int, names)], np.uint64))


def _in_zones(pfns: Words, zones: list[tuple[int, int, int]], number: int) -> npt.NDArray[np.bool_]:
    """Which frames are within a zone of the node; all if nothing is known of zones."""
    inside = np.full(len(pfns), not zones)
    for node, start, end in zones:
        if node == number:
            inside |= (pfns >= np.uint64(start)) & (pfns < np.uint64(end))
    return inside


def _zones() -> list[tuple[int, int, int]]:
    """Node, first frame and end of each zone that has frames."""
    found, node, spanned = [], 0, 0
    with contextlib.suppress(OSError):
        for number, size, start in _ZONE.findall((PROC / "zoneinfo").read_text()):
            if number:
                node = int(number)
            elif size:
                spanned = int(size)
            else:
                found.append((node, int(start), int(start) + spanned))
    return found
