"""What the name of a kernel's release tells: its distribution, and how that makes a dump."""

from __future__ import annotations

_KDUMP_CONF = (
    "in /etc/kdump.conf: core_collector makedumpfile -l --message-level 7 -d 23"  # RHEL, Fedora
)
_KDUMP_TOOLS = 'in /etc/default/kdump-tools: MAKEDUMP_ARGS="-c -d 23"'  # Debian, Ubuntu
_LINE_OF = {"fedora": _KDUMP_CONF, "debian": _KDUMP_TOOLS, "ubuntu": _KDUMP_TOOLS}


def distribution_of(release: str) -> str:
    """ "debian", "ubuntu", "fedora" (RHEL too) or "arch", by the form of ``release``; else "".

    >>> distribution_of("6.12.43+deb13-amd64"), distribution_of("5.14.0-503.el9.x86_64")
    ('debian', 'fedora')
    """
    if "amd64" in release or "deb" in release:
        return "debian"
    if ".el" in release or ".fc" in release:
        return "fedora"
    if release.endswith(("-generic", "-aws", "-azure", "-gcp")):
        return "ubuntu"
    return "arch" if "-arch" in release else ""


def better_dump(release: str) -> str:
    """How to make a dump with user pages, and the line that makes the next crash leave one.

    Zero pages, page cache and free pages may be left out, user pages (8) may not.
    """
    line = _LINE_OF.get(distribution_of(release), f"{_KDUMP_CONF}, or {_KDUMP_TOOLS}")
    return f"make one with: makedumpfile -l -d 23 /proc/vmcore vmcore ({line})"
