"""Lists of the kernel (struct list_head), from node to node."""

from __future__ import annotations

import numpy as np
from drgn import Program

from estimator.arrays import Words
from estimator.kernel.failures import skip_unreadable

LONGEST_LIST = 1 << 22  # PID_MAX_LIMIT
_LIST_WALKS = 8


def list_nodes(prog: Program, head: int) -> Words:
    """The nodes of a list_head, without the head; up to an unreadable or looping node.

    Each node is checked to point back at the one before: on a running system that is not so while
    entries come and go, or where the walk went astray on a freed one. Then it starts again.
    """
    longest: list[int] = []
    for _ in range(_LIST_WALKS):
        nodes, whole = _walk_list(prog, head)
        if len(nodes) > len(longest):
            longest = nodes
        if whole:
            return np.array(nodes, np.uint64)
    return np.array(longest, np.uint64)


def _walk_list(prog: Program, head: int) -> tuple[list[int], bool]:
    """The nodes of a list_head, and whether they lead back to the head with all links in order."""
    nodes: dict[int, None] = {}
    before, (node, _) = head, _links(prog, head)
    while node != head:
        links = None
        with skip_unreadable():
            links = _links(prog, node)
        if links is None:
            return list(nodes), False
        following, previous = links
        if previous != before or node in nodes or len(nodes) >= LONGEST_LIST:
            return list(nodes), False
        nodes[node] = None
        before, node = node, following
    return list(nodes), True


def _links(prog: Program, node: int) -> tuple[int, int]:
    """next and prev of a list_head."""
    following, previous = np.frombuffer(prog.read(node, 16), np.uint64).tolist()
    return following, previous
