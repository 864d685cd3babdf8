"""apt, with the suites of this machine or with one that only the lab uses.

Nothing of the machine's configuration is touched: the lab has lists and a cache of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

MIRROR = "http://deb.debian.org"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class LabError(Exception):
    """The lab can't do what was asked; the message says why and what to do about it."""


@dataclass(frozen=True)
class Apt:
    """The tools of apt under one configuration."""

    options: tuple[str, ...] = ()

    @staticmethod
    def of_suite(archive: str, suite: str, directory: Path, *, architecture: str = "") -> Apt:
        """Of one suite ("debian", "sid"); ``directory``, made if missing, holds what apt keeps.

        ``architecture``: of the packages, as Debian calls it; by default this machine's.
        """
        for name in ("state/lists/partial", "cache/archives/partial"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        sources = directory / "sources.list"
        sources.write_text(f"deb [signed-by={KEYRING}] {MIRROR}/{archive} {suite} main\n")
        settings = {
            "Dir::Etc::sourcelist": str(sources),
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State": str(directory / "state"),
            "Dir::Cache": str(directory / "cache"),
        }
        if architecture:
            settings |= {
                "APT::Architecture": architecture,
                "APT::Architectures::": architecture,
                "Dir::State::status": "/dev/null",
            }
        return Apt(tuple(word for pair in settings.items() for word in ("-o", "=".join(pair))))

    def update(self) -> None:
        """Fetch the lists of packages."""
        if os.geteuid() != 0:
            raise LabError("the package lists are missing or too old; run: apt-get update")
        run(["apt-get", *self.options, "update", "-qq"])

    def names(self, pattern: str) -> list[str]:
        """The packages whose name matches ``pattern``."""
        search = ["apt-cache", *self.options, "search", "--names-only", pattern]
        return [line.split()[0] for line in output(search).splitlines()]

    def versions(self, package: str) -> set[str]:
        """The versions of ``package`` that can be downloaded."""
        lines = output(["apt-cache", *self.options, "madison", package]).splitlines()
        return {line.split("|")[1].strip() for line in lines if "Packages" in line}

    def download(self, *packages: str, into: Path) -> None:
        """Put packages ("name" or "name=version") into a directory."""
        sandbox = ("-o", "APT::Sandbox::User=root")
        run(["apt-get", *self.options, *sandbox, "download", *packages], cwd=into)

    def download_with_all(self, *packages: str, into: Path) -> None:
        """Put packages and all that they depend on into a directory; for ``architecture`` alone."""
        (into / "partial").mkdir(parents=True, exist_ok=True)
        options = ("-o", "APT::Sandbox::User=root", "-o", f"Dir::Cache::archives={into}")
        install = ("install", "--no-install-recommends", "--download-only", "-y", "-qq")
        run(["apt-get", *self.options, *options, *install, *packages])


def compare_versions(left: str, right: str) -> int:
    """As for functools.cmp_to_key()."""
    if left == right:
        return 0
    command = ["dpkg", "--compare-versions", left, "gt", right]
    return 1 if subprocess.run(command, check=False).returncode == 0 else -1


def unpack(package: Path, into: Path) -> None:
    """Unpack all files of a Debian package; nothing is installed."""
    run(["dpkg-deb", "-x", str(package), str(into)])


def unpack_file(package: Path, member: str, destination: Path) -> None:
    """Copy one file of a Debian package to ``destination`` without unpacking the others.

    Raises LabError if it is not there, or a link.
    """
    archive = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
    with destination.open("wb") as file:
        tar = ["tar", "-x", "-O", "--occurrence=1", "-f", "-", member]
        status = subprocess.run(tar, stdin=archive.stdout, stdout=file, check=False).returncode
    archive.kill()
    archive.wait()
    if status or not destination.stat().st_size:
        raise LabError(f"{package.name} has no file {member}")


def run(
    command: list[str], *, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> None:
    """Run ``command`` with its output on stderr."""
    status = subprocess.run(command, cwd=cwd, env=environment, stdout=sys.stderr, check=False)
    if status.returncode:
        raise LabError(f"failed with status {status.returncode}: {' '.join(command)}")


def output(command: list[str]) -> str:
    """What ``command`` prints."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
