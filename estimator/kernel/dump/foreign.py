"""Files that are taken for crash dumps and are none that can be read here, by their first bytes."""

from __future__ import annotations

import shlex
from pathlib import Path

from estimator.errors import TargetError

PACKERS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\xfd7zXZ", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"\x04\x22\x4d\x18", "lz4", "unlz4"),
    (b"\x02\x21\x4c\x18", "lz4", "unlz4"),
    (b"\x89LZO\x00\r\n", "lzop", "lzop -d"),
)
"""What a packed file begins with, who packed it, and the command that unpacks it."""
# what a file begins with: what it is, and the command that helps ({}: the file)
_KNOWN: tuple[tuple[bytes, str, str], ...] = (
    *(
        (magic, f"packed as a whole ({packer})", f"{command} {{}}")
        for magic, packer, command in PACKERS
    ),
    (
        b"LibvirtQemudSave",
        "a saved guest (virsh save), not a dump",
        "virsh restore --paused {}, then virsh dump --memory-only DOMAIN vmcore",
    ),
    (
        b"LibvirtQemudPart",
        "a saved guest whose saving was cut off (virsh save)",
        "virsh dump --memory-only DOMAIN vmcore, of the guest as it runs",
    ),
    (
        b"QEVM",
        "a migration stream of QEMU, not a dump",
        'start the same guest with -S -incoming "exec:cat {}", then dump-guest-memory',
    ),
    (b"\xd0\xbe\xd0\xbe", "a suspended guest of VMware (.vmss, .vmsn)", "vmss2core -N6 {} VMEM"),
    (b"\xd1\xba\xd1\xba", "a suspended guest of VMware (.vmss, .vmsn)", "vmss2core -N6 {} VMEM"),
    (b"\xd2\xbe\xd2\xbe", "a suspended guest of VMware (.vmss, .vmsn)", "vmss2core -N6 {} VMEM"),
    (b"\xd3\xbe\xd3\xbe", "a suspended guest of VMware (.vmss, .vmsn)", "vmss2core -N6 {} VMEM"),
    (b"sadump\x00\x00", "a dump of sadump", "makedumpfile -l -d 23 -x VMLINUX {} vmcore"),
    (b"ProblemType: ", "a report of apport", "apport-unpack {} DIRECTORY"),
    (b"070701", "an initramfs (cpio), no dump", "name the vmcore"),
    (b"070702", "an initramfs (cpio), no dump", "name the vmcore"),
    (b"hsqs", "a file system (squashfs), no dump", "name the vmcore"),
    (b"PAGEDU64", "a dump of Windows", "name the vmcore of a Linux kernel"),
    (b"MDMP", "a dump of Windows", "name the vmcore of a Linux kernel"),
    (b"!<arch>\n", "a package or a library, no dump", "name the vmcore"),
)


def refuse_foreign(path: Path, head: bytes) -> None:
    """Raise TargetError if a file that begins with ``head`` is known not to be a dump."""
    for magic, what, command in _KNOWN:
        if head.startswith(magic):
            hint = f"try: {command.format(shlex.quote(str(path)))}"
            raise TargetError(f"{path} is {what}", hint=hint)
