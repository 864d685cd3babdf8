"""NUMA nodes as --procfs finds them and as the kernel's struct pages have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot
from tests.lab.conftest import again, lab_kernel
from tests.lab.kernels import IN_FULL
from tests.lab.running import running
from tests.lab.workload import Workload

pytestmark = pytest.mark.lab

NODE_MIB = 608  # no multiple of a memory block: the nodes meet within one
BLOCK_MIB = 128
PAGES = (90_000, 30_000)


def on_node(node: int) -> str:
    return f"""
        comm node{node}
        map data {PAGES[node]}
        node data {node}
        fill data same 1
    """


WORKLOAD = Workload(
    "nodes", (on_node(0), on_node(1)), memory_mib=2 * NODE_MIB, nodes=2, thp="never"
)


@pytest.mark.parametrize("series", [IN_FULL[0], again(IN_FULL[-1])])
def test_procfs_and_the_kernel_agree_on_the_node_of_each_frame(series: str, tmp_path: Path) -> None:
    with running(WORKLOAD, lab_kernel(series), tmp_path, debian=True) as guest:
        snapshots = {}
        for how in ("live --symbols /symbols/vmlinux", "procfs"):
            name = how.split()[0]
            status, output = guest.estimator(f"collect --{how} -o /tmp/{name}.ksm")
            assert status == 0, output
            (tmp_path / name).mkdir()
            snapshots[name] = open_snapshot(
                guest.fetch_snapshot(f"/tmp/{name}.ksm", tmp_path / name)
            )
        size = guest.guest.run("cat /sys/devices/system/memory/block_size_bytes")
        block = NODE_MIB // BLOCK_MIB  # has frames of both nodes
        found = guest.guest.run(f"ls -d /sys/devices/system/memory/memory{block}/node*")
    assert int(size, 16) == BLOCK_MIB << 20
    assert found.count("/node") == 2
    live, procfs = (nodes_by_frame(snapshots[name]) for name in ("live", "procfs"))
    both = live.keys() & procfs.keys()
    assert {pfn: live[pfn] for pfn in both} == {pfn: procfs[pfn] for pfn in both}
    for name, nodes in (("live", live), ("procfs", procfs)):  # compaction may move a few meanwhile
        counted = sum(snapshots[name].info["unknown"].values())
        assert len(nodes) + counted >= sum(PAGES)
        assert counted < sum(PAGES) // 100
    assert set(live.values()) == {0, 1}


def nodes_by_frame(snapshot: Snapshot) -> dict[int, int]:
    """Node by PFN of the frames of the two processes."""
    mms = snapshot.processes["mm_id"][snapshot.processes["comm"].isin(["node0", "node1"])]
    vmas = snapshot.vmas["vma_id"][snapshot.vmas["mm_id"].isin(mms)]
    rows = snapshot.mappings["frame_id"][snapshot.mappings["vma_id"].isin(vmas)]
    frames = snapshot.frames.iloc[rows.unique()]
    return dict(zip(frames["pfn"].tolist(), frames["node"].tolist(), strict=True))
