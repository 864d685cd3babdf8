"""kallsyms written by hand, as scripts/kallsyms.c does it."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

TOKENS = [bytes([n]) for n in range(256)]
TOKENS[200:206] = [b"ksm_", b"init_", b"zero", b"tT_s", b"page", b"__"]
TOKENS[0] = b"text"
BASE = 0xFFFFFFFF81000000

Symbols = Sequence[tuple[str, str, int]]  # class, name, address


def packed(symbol: str) -> bytes:
    """Class and name in tokens, behind their number."""
    rest, tokens = symbol.encode(), b""
    while rest:
        longest = max((t for t in TOKENS if rest.startswith(t)), key=len)
        tokens += bytes([TOKENS.index(longest)])
        rest = rest[len(longest) :]
    size = len(tokens)
    return (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + tokens


def tables(symbols: Symbols, encoding: str, at: int) -> tuple[bytes, Mapping[str, int]]:
    """All tables in the order of 5.10, for the address ``at``; and where each is."""
    count = len(symbols)
    if encoding == "place":
        numbers = [a - at - 4 * n for n, (_, _, a) in enumerate(symbols)]
    elif encoding == "absolute":
        numbers = [BASE - 1 - a if a >= BASE else a for _, _, a in symbols]
    else:
        numbers = [a - BASE for _, _, a in symbols]
    names = [packed(kind + name) for kind, name, _ in symbols]
    starts = [sum(map(len, names[:n])) for n in range(0, count, 256)]
    ends = [0]
    for token in TOKENS:
        ends.append(ends[-1] + len(token) + 1)
    parts = {
        "offsets": struct.pack(f"<{count}I", *(n & 0xFFFFFFFF for n in numbers)),
        "relative_base": struct.pack("<Q", BASE),
        "num_syms": struct.pack("<I", count),
        "names": b"".join(names),
        "markers": struct.pack(f"<{len(starts)}I", *starts),
        "token_table": b"".join(token + b"\0" for token in TOKENS),
        "token_index": struct.pack("<256H", *ends[:-1]),
    }
    data, places = b"", {}
    for name, part in parts.items():
        places[f"kallsyms_{name}"] = at + len(data)
        data += part + bytes(-len(part) % 8)
    return data, places
