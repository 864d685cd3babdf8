"""``fleet sketch`` and ``fleet place``: what should stand together."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from estimator.cli.fleet import read_lines, require_extra, write_table
from estimator.cli.options import force_option, json_option, policy_options, top_option
from estimator.cli.private_file import require_new
from estimator.cli.quantities import Duration, Size
from estimator.errors import CannotAnswerError, UsageError


@click.command("sketch")
@click.argument("snapshot", type=click.Path(path_type=Path, readable=False))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, readable=False),
    required=True,
    metavar="NAME.sketch",
    help="The file to make (mode 0600).",
)
@click.option(
    "--seed-file",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="Check that the snapshot was collected with this secret seed of the fleet.",
)
@policy_options
@force_option
def sketch(
    snapshot: Path, output: Path, seed_file: Path | None, force: bool, **policy: Any
) -> None:
    """Sample each virtual machine and service of a snapshot, some 32 KiB each, for place.

    Samples of several hosts can be compared if their snapshots were collected with one --seed-file.
    They hold hashes of memory, as the snapshot does: keep them as secret.
    """
    from estimator.collect.seed import read_seed_file
    from estimator.fleet.sketch import sketches, write_sketches
    from estimator.ksm.policy import Policy
    from estimator.snapshot.store import open_snapshot

    require_new(output, force)
    opened = open_snapshot(snapshot)
    if seed_file is not None and opened.info["hash"].get("seed") != read_seed_file(seed_file):
        raise UsageError(
            f"{snapshot} was not collected with the seed of {seed_file}",
            hint=f"ksm-estimator collect ... --seed-file {seed_file}",
        )

    found = sketches(opened, Policy(**policy))
    write_table(output, lambda path: write_sketches(found, path))


@click.command("place")
@click.argument(
    "files", nargs=-1, required=True, metavar="SKETCH...", type=click.Path(path_type=Path)
)
@click.option(
    "--capacity",
    type=Size(),
    metavar="SIZE",
    help="Memory of each host for its units (default: what those there take now).",
)
@click.option(
    "--after-sharing",
    is_flag=True,
    help="What is shared takes room once. What is written later needs it again.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help='Limits, lines of "UNIT-PATTERN tenant=NAME" (never together with another one\'s) or '
    '"UNIT-PATTERN apart=GROUP" (each on a host of its own).',
)
@click.option(
    "--services",
    is_flag=True,
    help="Place services as well; else virtual machines alone, where there are any.",
)
@click.option(
    "--for",
    "seconds",
    type=Duration(),
    default="30s",
    metavar="DURATION",
    help="How long to look for the best placement (default 30s).",
)
@top_option
@json_option
def place(
    files: tuple[Path, ...],
    capacity: int | None,
    after_sharing: bool,
    labels: Path | None,
    services: bool,
    seconds: float,
    top: int | None,
    as_json: bool,
) -> None:
    """Say which units to put on which host, what that shares, and how far it is from the best.

    Of sketches of all hosts, made with one seed. What units share inside is told apart: it does not
    depend on where they stand.
    """
    require_extra("scipy")
    import numpy as np

    from estimator.fleet.limits import limits_of
    from estimator.fleet.place import propose, site_of
    from estimator.fleet.place_sections import place_json, place_sections
    from estimator.fleet.sketch import read_sketches
    from estimator.report.tables import make_console
    from estimator.report.text import Tables, print_sections

    units = read_sketches(files)
    if not services and any(one.machine for one in units):
        units = [one for one in units if one.machine]
    hosts = sorted({one.host for one in units})
    lines = read_lines(labels) if labels else []
    tenant, apart = limits_of([one.unit for one in units], lines, str(labels))
    taken = [sum(one.memory_pages for one in units if one.host == host) for host in hosts]
    pages = [capacity // units[0].page_bytes] * len(hosts) if capacity else taken
    site = site_of(units, hosts, np.array(pages, float), tenant, apart, after_sharing=after_sharing)
    found = propose(site, seconds)
    if found is None:
        raise CannotAnswerError(
            "no placement within these limits was found",
            hint="more --capacity, --after-sharing, or fewer limits in --labels",
        )
    if as_json:
        click.echo(json.dumps(place_json(units, hosts, site, found)))
        return
    tables = Tables(top, None, ": --top 0 shows all")
    print_sections(place_sections(units, hosts, site, found), make_console(sys.stdout), (), tables)
