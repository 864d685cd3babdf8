"""Of which machine and boot a snapshot is: whether two pictures can be of one system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Identity:
    """What tells machines and boots apart; None: not known.

    ``boot_id``: /proc/sys/kernel/random/boot_id. ``machine_id``: /etc/machine-id. ``host``: its
    node name. ``release`` and ``build_id``: of the kernel.
    """

    boot_id: str | None = None
    machine_id: str | None = None
    host: str | None = None
    release: str | None = None
    build_id: str | None = None

    @staticmethod
    def of(info: Mapping[str, Any]) -> Identity:
        """Of the snapshot with this ``info``."""
        kernel = info.get("kernel", {})
        return Identity(
            info.get("boot_id"),
            info.get("machine_id"),
            host_name(info),
            kernel.get("release"),
            kernel.get("build_id"),
        )

    def same_boot(self, other: Identity) -> bool | None:
        """Whether both are of one boot of one machine; None where that can't be told."""
        if self.boot_id and other.boot_id:
            return self.boot_id == other.boot_id
        if self.other_machine(other) or self.other_kernel(other):
            return False
        return None

    def other_machine(self, other: Identity) -> str | None:
        """What says that they are of two machines; None if nothing does."""
        if self.boot_id and self.boot_id == other.boot_id:
            return None  # in containers the names may differ
        if self.machine_id and other.machine_id:
            different = self.machine_id != other.machine_id
            return "the machine-ids differ" if different else None
        return _differ("host", self.host, other.host)

    def other_kernel(self, other: Identity) -> str | None:
        """What says that they are of two kernels, so of two boots; None if nothing does."""
        return _differ("kernel", self.release, other.release) or _differ(
            "build-id", self.build_id, other.build_id
        )


def origin(info: Mapping[str, Any]) -> dict[str, Any]:
    """Where, when and how a picture was taken, for the answers made from it; null: not known.

    host, boot_id, machine_id, source, collected_at: strings. passes: how many looks it is of.
    """
    found = {name: info.get(name) for name in ("host", "boot_id", "machine_id")}
    return found | {
        "source": info.get("source", {}).get("kind"),
        "collected_at": info.get("collected_at"),
        "passes": info.get("passes", {}).get("count", 1),
    }


def host_name(info: Mapping[str, Any]) -> str | None:
    """The node name; None where it was never set: the kernel then says "(none)"."""
    host = info.get("host")
    return None if host in (None, "", "(none)") else str(host)


def _differ(what: str, first: str | None, second: str | None) -> str | None:
    if first and second and first != second:
        return f"{what} {first} and {what} {second}"
    return None
