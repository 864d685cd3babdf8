"""The benchmarks: ratios between programs that run one after the other on the same input."""

from __future__ import annotations

from pathlib import Path

import click

from scripts.bench_against import bench_against
from scripts.bench_arch import bench_arch
from scripts.bench_compressed import bench_compressed
from scripts.bench_dump import bench_crowded, bench_dump
from scripts.bench_fleet import bench_fleet, bench_summary
from scripts.bench_forks import bench_forks
from scripts.bench_memory import bench_memory
from scripts.bench_place import bench_place
from scripts.bench_predict import bench_predict
from scripts.bench_procfs import bench_procfs
from scripts.bench_ratios import bench_ratios
from scripts.bench_running import bench_running


@click.group(invoke_without_command=True)
@click.option("--gib", type=float, default=7.0, help="Memory of the guest (default 7).")
@click.option("--rounds", type=int, default=3, help="The best of so many (default 3).")
@click.option(
    "--mappings",
    type=int,
    nargs=2,
    default=(1, 10),
    help="In millions, of snapshots (default 1 10).",
)
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="WHEEL",
    help="Every command beside that of another version instead: the last release.",
)
@click.option(
    "--core",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="With --against: a dump; else one of a small guest is made.",
)
@click.pass_context
def main(
    context: click.Context,
    gib: float,
    rounds: int,
    mappings: tuple[int, int],
    against: Path | None,
    core: tuple[Path, ...],
) -> None:
    """Measure: without a subcommand all that is promised, as ratios within one run.

    Shared machines are noisy: the best of several rounds counts.
    """
    if context.invoked_subcommand is not None:
        return
    if against is not None:
        bench_against(against, core, mappings[:1], rounds)
    else:
        bench_ratios(gib, rounds, mappings)


@main.command()
@click.option("--gib", type=float, default=7.0, help="Memory of the guest (default 7).")
@click.option("--rounds", type=int, default=3, help="The best of so many (default 3).")
def dump(gib: float, rounds: int) -> None:
    """A whole `run` on a dump against the plain drgn script and hashing alone."""
    bench_dump(gib, rounds)


@main.command()
@click.option("--gib", type=float, default=2.0, help="Memory of each guest (default 2).")
@click.option("--rounds", type=int, default=7, help="The median of so many (default 7).")
def arch(gib: float, rounds: int) -> None:
    """A `run` on a dump of arm64 against one of x86-64, per byte."""
    bench_arch(gib, rounds)


@main.command()
@click.option("--gib", type=float, default=4.0, help="Memory of the guest (default 4).")
@click.option("--rounds", type=int, default=3, help="The best of so many (default 3).")
def compressed(gib: float, rounds: int) -> None:
    """A `run` on compressed dumps, and reading their frames through libkdumpfile alone."""
    bench_compressed(gib, rounds)


@main.command()
@click.option("--gib", type=float, default=1.5, help="Anonymous memory in all (default 1.5).")
@click.option("--rounds", type=int, default=9, help="The best of so many (default 9).")
def crowded(gib: float, rounds: int) -> None:
    """The cost of sparse and crowded address spaces, per frame."""
    bench_crowded(gib, rounds)


@main.command()
@click.option("--mappings", type=int, multiple=True, default=(1, 10, 50), help="In millions.")
def predict(mappings: tuple[int, ...]) -> None:
    """`predict` alone on synthetic snapshots."""
    bench_predict(mappings, "predict")


@main.command()
@click.option("--mappings", type=int, multiple=True, default=(1, 10), help="In millions.")
def forecast(mappings: tuple[int, ...]) -> None:
    """`forecast` of 20 full scans with smart_scan on the same snapshots."""
    bench_predict(mappings, "forecast", "--scans", "20", "--smart-scan")


@main.command()
@click.option("--workers", type=int, default=256, help="Processes that share 1 GiB (default 256).")
@click.option("--gib", type=float, default=6.0, help="Memory of the guest (default 6).")
@click.option("--rounds", type=int, default=3, help="The best of so many (default 3).")
def forks(workers: int, gib: float, rounds: int) -> None:
    """`collect` of a big fork server: many mappings, few frames."""
    bench_forks(workers, gib, rounds)


@main.command()
@click.option("--mappings", type=int, multiple=True, default=(1, 10), help="In millions.")
def memory(mappings: tuple[int, ...]) -> None:
    """Peaks of `predict`, `report` and `advise`, and what larger hosts would take."""
    bench_memory(mappings)


@main.command()
@click.option("--hosts", type=int, multiple=True, default=(100, 1_000, 10_000), help="How many.")
@click.option("--workers", type=int, default=2, help="Processes (default 2).")
@click.option("--kill", is_flag=True, help="Kill one worker when half is done.")
@click.argument("snapshots", nargs=-1, type=click.Path(path_type=Path, exists=True))
def fleet(hosts: tuple[int, ...], workers: int, kill: bool, snapshots: tuple[Path, ...]) -> None:
    """`fleet report` on many hosts, made of SNAPSHOTS (directories) or of small ones."""
    bench_fleet(hosts, workers, snapshots, kill)


@main.command("fleet-summary")
@click.option("--hosts", type=int, multiple=True, default=(1_000, 10_000, 100_000))
def fleet_summary(hosts: tuple[int, ...]) -> None:
    """What `fleet report` does in one process for all hosts, without reading snapshots."""
    bench_summary(hosts)


@main.command()
@click.option("--rounds", type=int, default=10, help="Data centres of each shape (default 10).")
@click.option("--seconds", type=float, default=30, help="For HiGHS, each shape (default 30).")
def place(rounds: int, seconds: float) -> None:
    """How many more machines fit where alike ones stand together."""
    bench_place(rounds, seconds)


@main.command()
@click.option("--gib", type=float, default=3.0, help="Anonymous memory to fill here (default 3).")
@click.option("--rounds", type=int, default=3, help="The best of so many (default 3).")
def procfs(gib: float, rounds: int) -> None:
    """`collect --procfs` on this machine, as root."""
    bench_procfs(gib, rounds)


@main.command("running")
@click.option("--gib", type=float, default=1.0, help="Anonymous memory of the guest (default 1).")
@click.option("--rounds", type=int, default=3, help="The best of so many (default 3).")
def running(gib: float, rounds: int) -> None:
    """`--live` in a guest and `--qemu` from outside, beside plain loops over the same memory."""
    bench_running(gib, rounds)


if __name__ == "__main__":  # workers of fleet import this again
    main()
