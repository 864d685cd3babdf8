"""Write the table of kernels: ``python -m tests.lab.survey [--out FILE]``.

Takes the newest kernel of every series from Debian's suites, reads types and symbols out of its
image, and says which of the differences in ``estimator.ksm.features`` it has, and what the reader
needs and does not find. A new kernel is a new row.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from estimator.errors import EstimatorError
from estimator.kernel.ksm_settings import features
from estimator.kernel.requirements import missing
from estimator.ksm.features import FEATURES, version_of
from tests.lab.apt import Apt, LabError, compare_versions, unpack
from tests.lab.kernel_image import program_of, vmlinux_of
from tests.lab.kernels import say

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"
SUITES = (
    ("debian", "sid"),
    ("debian", "trixie-backports"),
    ("debian", "trixie"),
    ("debian", "bookworm"),
    ("debian-security", "bullseye-security"),
)
_IMAGES = r"^linux-(image|binary)-[0-9].*-cloud-amd64$"
_RELEASE = re.compile(r"linux-(?:image|binary)-(\d+\.\d+\.\d+.*)")

INTRODUCTION = """\
# Kernels

Written by `./scripts/kernels`, not by hand: the newest kernel of each series that Debian has, read
from its package by the types (BTF) and symbols (kallsyms) that it carries. *yes* and *no* are what
`estimator/ksm/features.py` finds; a star says that only the release told it, since a function that
was inlined does not show. *needs* is what `estimator/kernel/requirements.py` does not find.
On which of these kernels the prediction was compared with ksmd says
[prediction-and-truth.md](prediction-and-truth.md).
"""

_PROOF = "`./scripts/proof --arch arm64`"
_TEST = "`tests/lab/test_arm64.py`"
_LOOKS = "dump as ELF and kdump, QMP, `--procfs` and `--live` inside; then ksmd"
ARM64_ROWS = (
    ("kernel", "pages", "from", "what was run", "by"),
    ("---",) * 5,
    ("5.10, 6.1, 7.2", "4 KiB", "`linux-image-*-cloud-arm64`", "all workloads", _PROOF),
    ("6.12", "4 KiB", "`linux-image-*-cloud-arm64`", "all workloads", _PROOF),
    ("", "", "", f"one moment: {_LOOKS}", _TEST),
    ("6.12", "16 KiB", "`linux-image-*-arm64-16k`", "the same as with 4 KiB", "the same"),
    ("7.2", "16 KiB", "`linux-image-*-arm64-16k`", "all workloads", _PROOF),
    ("6.12", "64 KiB", "`linux-source-6.12`, built", "the same as with 4 KiB", "the same"),
)
ARM64 = """\
## arm64

Emulated, on x86-64. The workloads with their numbers are in
[prediction-and-truth-arm64.md](prediction-and-truth-arm64.md).

"""
ARM64_DUMPS = """
One moment of 7.2, with pages of 4 and 16 KiB, was read in these ways too (`KERNELS` of
`tests/lab/test_arm64.py` set to them), and is one answer.

`--live` takes types and symbols from the kernel itself; drgn is `python3-drgn` of Debian's sid.

A dump in the format of kdump of these kernels, which are built for addresses of 52 bits:

- makedumpfile up to 1.7.9 refuses them with pages of 4 and 16 KiB ("PAGE SIZE 0x1000 and VA Bits 52
  not supported"): it derives the levels of page tables from VA_BITS, whatever the CPU has.
- Its git (b7587f1) knows the levels, and fails with "Can't get the address of system_utsname": it
  takes bits 12 to 15 of an entry for the highest of a physical address. That is so with pages of
  64 KiB alone; otherwise they are bits 8 and 9 (`__pte_to_phys()` in its `arch/arm64.c`).
- With that put right (bits 12 or 14 to 49, and 8 and 9 as 50 and 51, where TCR_EL1_T1SZ says 52),
  `-l -d 23` on QEMU's dumps of guests of 6.12 with pages of 4 and 16 KiB wrote files of which all
  tables of the snapshot are equal to those of the dumps.
- QEMU's own (`dump-guest-memory -z`) have blocks of 64 KiB: with smaller pages, refused by name.

Until a release of makedumpfile can, such a dump is taken as ELF: by QEMU's `dump-guest-memory`
without a format, as the tests do. A copy of `/proc/vmcore` in a crash kernel was not tried. The
kdump file that the test reads is written by `tests/lab/as_kdump.py`.
"""
ARM64_64K = """
Debian has no package of a kernel with pages of 64 KiB. `./scripts/proof --arch arm64` builds one
from its source and `tests/lab/configs/arm64-64k.config`, in 3 GB of the cache's disk;
`./scripts/test` does not. Workloads that would need a guest of more than
4 GiB with such pages (`MOST_MIB` in `tests/lab/workload.py`), or more hugetlb pages of 512 MiB than
fit into it, are left out; MTE and huge pages of 512 MiB are among the others.
"""


@dataclass(frozen=True)
class Row:
    """One kernel: "yes", "no" by feature (with a star: by release), and what it lacks."""

    release: str
    features: dict[str, str]
    needs: str


def newest_of_each_series(apt: Apt) -> Iterator[tuple[str, str, str]]:
    """Package, version and release of the newest kernel of each series; newest series first."""
    newest: dict[str, tuple[str, str, str]] = {}
    for package in apt.names(_IMAGES):
        found = _RELEASE.fullmatch(package)
        for version in apt.versions(package) if found else ():
            series = ".".join(version.split(".")[:2])
            candidate = (package, version, found[1] if found else "")
            best = newest.get(series)
            # from 6.19 on linux-image-* is empty and linux-binary-* has the kernel
            if best is None or (compare_versions(version, best[1]), package < best[0]) > (0, False):
                newest[series] = candidate
    yield from newest.values()


def survey(package: Path, release: str) -> Row:
    """What the kernel in ``package`` has and lacks."""
    with tempfile.TemporaryDirectory(prefix="ksm-survey.") as directory:
        unpack(package, Path(directory))
        images = [path for path in Path(directory).rglob("vmlinuz*") if path.is_file()]
        if not images:
            raise LabError(f"{package.name} has no kernel")
        vmlinux = vmlinux_of(images[0])
    prog, _ = program_of(vmlinux, release)
    found = features(prog)
    by_release = set(found["features_by_release"])
    words = {
        name: ("yes" if has else "no") + ("\\*" if name in by_release else "")
        for name, has in found["features"].items()
    }
    return Row(release, words, ", ".join(missing(prog)) or "–")


def page(rows: Sequence[Row]) -> str:
    """The page about ``rows``, oldest kernel first."""
    names = [feature.name for feature in FEATURES]
    lines = [["kernel", *names, "needs"], ["---"] * (len(names) + 2)]
    for row in sorted(rows, key=lambda row: version_of(row.release)):
        lines.append([row.release, *(row.features.get(name, "?") for name in names), row.needs])
    return f"{INTRODUCTION}\n{_table(lines)}\n{ARM64}{_table(ARM64_ROWS)}{ARM64_DUMPS}{ARM64_64K}"


def _table(lines: Iterable[Iterable[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Survey all suites; a series that several have counts once, its newest kernel."""
    parser = argparse.ArgumentParser(description="What every kernel has of what the reader needs.")
    parser.add_argument("--out", type=Path, default=PAGE, help=f"the page (default {PAGE.name})")
    arguments = parser.parse_args()
    rows: dict[str, tuple[str, Row]] = {}
    for archive, suite in SUITES:
        with tempfile.TemporaryDirectory(prefix="ksm-survey.") as directory:
            apt = Apt.of_suite(archive, suite, Path(directory) / "apt")
            apt.update()
            for package, version, release in newest_of_each_series(apt):
                series = ".".join(version.split(".")[:2])
                if series in rows and compare_versions(version, rows[series][0]) <= 0:
                    continue
                say(f"{release} of {suite}")
                try:
                    apt.download(f"{package}={version}", into=Path(directory))
                    deb = next(Path(directory).glob(f"{package}_*.deb"))
                    rows[series] = (version, survey(deb, release))
                    deb.unlink()
                except (LabError, EstimatorError) as error:
                    say(f"{release}: {error}")
    arguments.out.write_text(page([row for _, row in rows.values()]))
    say(f"{arguments.out}: {len(rows)} kernels")


if __name__ == "__main__":
    main()
