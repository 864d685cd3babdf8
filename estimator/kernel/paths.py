"""Paths of files and cgroups; drgn's own helpers follow a damaged chain of parents for ever."""

from __future__ import annotations

from drgn import Object, Program, container_of
from drgn.helpers.linux.cgroup import cgroup_path
from drgn.helpers.linux.fs import d_path

from estimator.kernel.layout import first_member, offset

_ADDRESS_MASK = (1 << 64) - 1
_DEEPEST = 4096  # PATH_MAX: a component and its slash are two bytes


class Paths:
    """Paths as text. Raises ValueError for a chain without an end; and what drgn raises."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._dentry_parent = offset(prog, "struct dentry", "d_parent")
        node = "struct kernfs_node"
        self._node_parent = offset(prog, node, first_member(prog, node, "__parent", "parent"))
        self._sound: set[int] = set()  # their chain of parents ends

    def of_file(self, file: int) -> str:
        """The path of the struct file at ``file``."""
        path = Object(self._prog, "struct file *", file).f_path
        self._require_end(path.dentry.value_(), self._dentry_parent)
        mount = container_of(path.mnt, "struct mount", "mnt")
        for _ in range(_DEEPEST):
            parent = mount.mnt_parent.read_()
            if parent == mount:
                return d_path(path).decode(errors="replace")
            self._require_end(mount.mnt_mountpoint.value_(), self._dentry_parent)
            mount = parent
        raise ValueError("mounts lead back to themselves")

    def of_cgroup(self, cgroup: Object) -> str:
        """The path of a struct cgroup *."""
        self._require_end(cgroup.kn.value_(), self._node_parent)
        return cgroup_path(cgroup).decode(errors="replace")

    def _require_end(self, address: int, link: int) -> None:
        """Raise ValueError unless the parents of ``address`` end at 0 or at their own parent."""
        chain = set()
        while address and address not in self._sound:
            parent = self._prog.read_u64((address + link) & _ADDRESS_MASK)
            chain.add(address)
            if parent == address:
                break
            if parent in chain or len(chain) > _DEEPEST:
                raise ValueError("parents lead back to themselves")
            address = parent
        self._sound |= chain
