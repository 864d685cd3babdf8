"""Memory with tags (MTE, arm64): a tagged page merges with none, not even with one of its kind.

Left out is what depends on the shape of ksmd's tree, which no count of hashes tells: pages without
tags of the same bytes, of which ksmd can miss that two are equal; and pages that fork shares and
that have equal ones, which can stand in the tree once for each process.
"""

from __future__ import annotations

from tests.lab.workload import Workload

TAGGED = """
    map tagged 60 mte
    fill tagged[:40] list 1
    fill tagged[40:50] zero
    fill tagged[50:] same 2
    map plain 60
    fill plain[:40] list 3
    fill plain[40:] same 4
    advise tagged mergeable
    advise plain mergeable
"""

ZEROES = f"""
    {TAGGED}
    map zeroes 10               # without tags: they become the zero page
    fill zeroes zero
    advise zeroes mergeable
"""

FORKED = """
    map tagged 60 mte
    fill tagged list 1
    map plain 60
    fill plain list 3
    advise tagged mergeable
    advise plain mergeable
    fork 2
        fill tagged[:5] list 1  # copies of its own
    end
"""

HUGE = """
    map tagged 1H mte
    advise tagged hugepage
    fill tagged own 1
    fill tagged[:10] zero       # stay when ksmd splits it
    map pair 1
    fill pair same 7
    map twin 1H
    advise twin hugepage
    fill twin own 2
    fill twin[9] same 7
    advise tagged mergeable
    advise pair mergeable
    advise twin mergeable
"""

WORKLOADS = (
    Workload("tagged", (TAGGED,) * 3, machines=("aarch64",), mte=True),
    Workload(
        "tagged-use-zero", (ZEROES,) * 3, machines=("aarch64",), mte=True, ksm={"use_zero_pages": 1}
    ),
    Workload("tagged-forked", (FORKED, TAGGED), machines=("aarch64",), mte=True),
    Workload("tagged-huge", (HUGE,) * 2, machines=("aarch64",), mte=True, min_scans=6),
)
