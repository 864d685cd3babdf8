"""Other page sizes, nearly equal pages, loading before the fork, as parts of a report."""

from __future__ import annotations

import pandas as pd

from estimator.advice.alike import Alike
from estimator.advice.copies import Copies
from estimator.advice.preload import Preload
from estimator.report.prediction_sections import Section
from estimator.report.tables import Column, memory, pages
from estimator.units import human_bytes, percent, plural, printable

_PIECES = "Smaller sizes are known after collect --pieces."
_NEAR = "Whether pages are nearly equal is known after collect --near."


def alike_sections(found: Alike) -> list[Section]:
    """What copies are made of, other page sizes, nearly equal pages, loading before the fork."""
    if not found.copies.mapped:
        return []
    return [_page_sizes(found), _near(found.near), _preload(found.preload)]


def _page_sizes(found: Alike) -> Section:
    columns = [
        memory("pages of", "page_bytes"),
        memory("in whole pages", "whole_bytes"),
        memory("equal: frees", "bytes_saved"),
        Column("of whole", "share", lambda part: percent(part, 1), number=True),
        memory("zero-filled", "zero_bytes"),
    ]
    table = found.page_sizes
    share = (table["bytes_saved"] / table["whole_bytes"]).fillna(0)
    note = (
        f"{_copies(found.copies)} Larger than {human_bytes(found.page_bytes)}: aligned groups of "
        "today's pages that are present, visited by ksmd and equal, as a kernel with such pages "
        "would lay them out: a thought. What is not whole counts as nothing."
    )
    if found.has_pieces:
        note += " Smaller: pieces of today's pages."
    else:
        note += f" {_PIECES}"
    title = "What pages of other sizes would share"
    return Section(title, table.assign(share=share), columns, len(table), note=note)


def _copies(found: Copies) -> str:
    """What is zero, what is fork, what is real."""
    all_copies = found.zero + found.fork + found.real
    if not all_copies:
        return "No page that ksmd visits has a copy."
    return (
        f"Of {human_bytes(found.mapped)} that ksmd visits, {human_bytes(all_copies)} are copies: "
        f"{human_bytes(found.zero)} zero-filled, {human_bytes(found.fork)} one frame already, by "
        f"fork, and {human_bytes(found.real)} really equal, in frames of their own."
    )


def _near(table: pd.DataFrame | None) -> Section:
    title = "Pages that are nearly equal"
    if table is None:
        return Section(title, note=_NEAR)
    ends, addresses = (float(table[kind].sum()) for kind in ("ends_bytes", "address_bytes"))
    if not len(table):
        return Section(title, note="No page differs from another one in these words alone.")
    columns = [
        Column("VMA", "label"),
        Column("comm", "comm"),
        memory("but for both ends", "ends_bytes"),
        memory("but for addresses", "address_bytes"),
    ]
    most = table.iloc[0]
    where = printable(f"{most['label']} of {most['comm']}")
    more = human_bytes(addresses) if addresses else "nothing"
    note = (
        f"{human_bytes(ends) if ends else 'Nothing'} more would be equal without the first and "
        f"last 64 bytes of each page, and {more} more without the words that are addresses of the "
        f"own process; most of it in {where}. KSM merges none of it."
    )
    total = {"ends_bytes": ends, "address_bytes": addresses}
    return Section(title, table, columns, 10, total, note=note)


def _preload(found: Preload) -> Section:
    title = "Instead of KSM: loading before the fork"
    if found.bytes_saved is None:
        return Section(
            title, note="Who started whom is not in this snapshot: it is of an older version."
        )
    merged = human_bytes(found.merged_bytes)
    note = (
        f"Of {merged} of data that KSM would free, {human_bytes(found.bytes_saved)} "
        f"({percent(found.bytes_saved, found.merged_bytes)}) lie between siblings: processes of "
        "one program that one parent started. Loaded by the parent before it forks, fork would "
        "share that without ksmd, as long as nobody writes to it."
    )
    if not found.bytes_saved:
        note = f"Of {merged} of data that KSM would free nothing lies between siblings."
    if found.unknown_processes:
        note += f" The parent of {plural(found.unknown_processes, 'process')} is not known."
    columns = [
        Column("unit", "unit"),
        Column("program", "comm"),
        Column("parent", "parent_pid", str, number=True),
        pages("processes", "processes"),
        memory("could be loaded once", "bytes_saved"),
    ]
    total = {"bytes_saved": found.bytes_saved} if len(found.groups) else None
    return Section(title, found.groups, columns, 10, total, note=note)
