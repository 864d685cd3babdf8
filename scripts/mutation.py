"""Mutation testing with mutmut: which mutants and which tests, and the page with the score.

``scripts/mutate`` runs it in a copy of the tree. mutmut asks each mutant only of the tests that
call its function; those that are properties come last, because they take longest.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from configparser import ConfigParser
from pathlib import Path

import click
import hypothesis
import pytest

FOLDERS = ("ksm", "kernel", "snapshot")
# They start the program or other processes, in which mutmut sees no function called.
STARTS_PROCESSES = """
    answers_cli completion guest_boot html live_refused notebook packaging procfs public_names
    terminal without_drgn workers
"""
# Every mutant is a copy of its function, docstring included: examples would run once per copy.
DOCTESTS = "doc_examples"
# It measures the memory of a process that this one starts, and finds that of mutmut in it.
MEASURES = "test_dumpfile.py::test_files_made_up_to_be_large_are_read_in_little_memory"
NOT_MUTATED = r"^\s*raise "  # words of a message; whether it comes is a condition elsewhere
COLUMNS = ("killed", "timeout", "survived", "no tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Properties last: most mutants are dead before. They draw the same examples every time."""
    items.sort(key=lambda item: item.get_closest_marker("hypothesis") is not None)


def pytest_configure() -> None:
    """The examples of a property are the same for each mutant, however busy the machine."""
    hypothesis.settings.register_profile("mutants", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("mutants")


def configure(files: Iterable[Path]) -> None:
    """Write mutmut's settings; ``files`` are mutated."""
    skipped = [
        f"--ignore=tests/test_{name}.py" for name in f"{STARTS_PROCESSES} {DOCTESTS}".split()
    ]
    plugins = ["scripts.mutation", "no:cacheprovider", "no:xdist"]
    arguments = ["-m", "not lab", *skipped, f"--deselect=tests/{MEASURES}"]
    settings: dict[str, Iterable[object]] = {
        "source_paths": ["estimator"],
        "only_mutate": files,
        "do_not_mutate_patterns": [NOT_MUTATED],
        "also_copy": ["docs", "scripts", "README.md", "CHANGELOG.md"],
        "pytest_add_cli_args": arguments + [a for name in plugins for a in ("-p", name)],
        "pytest_add_cli_args_test_selection": ["tests"],
        "timeout_multiplier": [4],
        "timeout_constant": [3],
    }
    config = ConfigParser(interpolation=None)
    config["mutmut"] = {
        name: "\n".join(["", *map(str, values)]) if name[0] != "t" else str(*values)
        for name, values in settings.items()
    }
    with open("setup.cfg", "w") as file:
        config.write(file)


def names_in(path: Path) -> list[str]:
    """The mutants of ``path``, as mutmut names them."""
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    mutated = mutate_file_contents(str(path), path.read_text(), None, None)
    return [get_mutant_name(path, name) for name in mutated.mutant_names]


def folder_of(name: str) -> str:
    """The folder of a mutant, or of a file."""
    return re.split(r"[./]", name)[1]


def draw(names: Sequence[str], sample: int, seed: int) -> list[str]:
    """``sample`` mutants of each folder, or all of them."""
    drawn: list[str] = []
    for folder in FOLDERS:
        there = sorted(name for name in names if folder_of(name) == folder)
        drawn += random.Random(seed).sample(there, min(sample, len(there)))
    return drawn


def results(names: Iterable[str], files: Iterable[Path]) -> dict[str, str]:
    """What became of the mutants ``names``: name, status."""
    from mutmut.stats import status_by_exit_code

    codes: dict[str, int | None] = {}
    for path in files:
        codes |= json.loads(Path(f"mutants/{path}.meta").read_text())["exit_code_by_key"]
    return {name: str(status_by_exit_code[codes[name]]) for name in names}


def score_table(names: Sequence[str], found: dict[str, str]) -> list[str]:
    """Lines of the table: what exists, what was tried, what became of it."""
    lines = [
        f"| folder | mutants | tried | {' | '.join(COLUMNS)} | score |",
        f"| --- |{' ---: |' * (len(COLUMNS) + 3)}",
    ]
    for folder in (*FOLDERS, "all"):
        there = [name for name in names if folder in (folder_of(name), "all")]
        counts = Counter(status for name, status in found.items() if name in set(there))
        if odd := counts.keys() - set(COLUMNS):
            raise SystemExit(f"mutants that were not tried: {odd}")
        if tried := counts.total():
            score = (counts["killed"] + counts["timeout"]) / tried
            cells = [len(there), tried, *(counts[status] for status in COLUMNS)]
            lines.append(f"| {folder} | {' | '.join(map(str, cells))} | {score:.0%} |")
    return lines


def write_page(page: Path, lines: Sequence[str]) -> None:
    """Replace what stands between the two marks of ``page``."""
    begin, end = "<!-- scripts/mutate -->\n", "<!-- end -->"
    before, _, rest = page.read_text().partition(begin)
    page.write_text(before + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2])


@click.command()
@click.option("--sample", type=int, help="So many mutants of each folder (default: all).")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the sample.")
@click.option("--children", type=int, default=2, show_default=True, help="Mutants at a time.")
@click.option("--write", is_flag=True, help="Put the score into tests/README.md.")
@click.option("--commit", required=True, help="What is tested.")
@click.option("--page", type=Path, required=True)
@click.argument("files", type=Path, nargs=-1)
def main(
    sample: int | None,
    seed: int,
    children: int,
    write: bool,
    commit: str,
    page: Path,
    files: tuple[Path, ...],
) -> None:
    """Run mutants of FILES, which default to all of the three folders."""
    mutated = files or [p for f in FOLDERS for p in sorted(Path("estimator", f).rglob("*.py"))]
    configure(mutated)
    names = [name for path in mutated for name in names_in(path)]
    tried = names if sample is None else draw(names, sample, seed)
    subprocess.run(["mutmut", "run", "--max-children", str(children), *tried], check=True)
    found = results(tried, mutated)
    for name, status in found.items():
        if status in ("survived", "no tests"):
            subprocess.run(["mutmut", "show", name], check=True)
    lines = score_table(names, found)
    print(*lines, sep="\n")
    if write:
        given = [f"--sample {sample} --seed {seed}"] if sample else []
        command = " ".join(["./scripts/mutate", *given, *map(str, files)])
        write_page(page, [f"`{command}` at commit {commit}:", "", *lines])


if __name__ == "__main__":
    main()
