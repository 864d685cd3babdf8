"""The seed of the hashes: with a secret one nobody can look up known pages, or build collisions."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Any

from estimator.collect.hashing import HASH_NAME
from estimator.errors import TargetError, UsageError

_BITS = 64
_MOST_BYTES = 64
_MAKE = "make one with: (umask 077; od -An -N8 -tx8 /dev/urandom > {path})"


def random_seed() -> int:
    """A new seed, below 2^64, that nobody can guess."""
    return int.from_bytes(os.urandom(_BITS // 8), "little")


def about_hash(seed: int) -> dict[str, Any]:
    """``info["hash"]`` of a snapshot: name, seed, and ``seed_id``, which may be shown.

    The seed can't be found from its ``seed_id``, but two snapshots with the same one can be
    compared page by page.
    """
    digest = hashlib.sha256(b"ksm-estimator seed" + seed.to_bytes(_BITS // 8, "big"))
    return {"name": HASH_NAME, "seed": seed, "seed_id": digest.hexdigest()[:16]}


def read_seed_file(path: Path) -> int:
    """The seed in ``path``: 16 hexadecimal digits, or 0x and hexadecimal ones, or a decimal number.

    Raises UsageError unless it is a regular file that only the caller or root can read, with such
    a number below 2^64 in it.
    """
    hint = _MAKE.format(path=path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}", hint=hint) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} is no regular file", hint=hint)
        if status.st_uid not in (os.geteuid(), 0):
            raise UsageError(f"{path} belongs to user {status.st_uid}", hint=hint)
        if stat.S_IMODE(status.st_mode) & ~0o600:
            raise UsageError(
                f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: others may know the seed",
                hint=hint,
            )
        text = os.read(descriptor, _MOST_BYTES).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}|[0-9a-fA-F]{16}", text):
        return int(text, 16)
    if re.fullmatch(r"[0-9]{1,20}", text) and int(text) < 1 << _BITS:
        return int(text)
    raise UsageError(f"{path} holds no 64-bit number", hint=hint)


def seed_of(snapshot: Path) -> int:
    """The seed of the snapshot ``snapshot``.

    Raises TargetError if that can't be read, UsageError if its hashes are none of ours.
    """
    from estimator.snapshot.store import read_info

    try:
        found = read_info(snapshot)["hash"]
        name, seed = found["name"], found["seed"]
    except (KeyError, TypeError) as error:
        raise TargetError(f"{snapshot}: no readable snapshot.json ({error})") from error
    if name != HASH_NAME or not isinstance(seed, int) or not 0 <= seed < 1 << _BITS:
        raise UsageError(
            f"{snapshot} has hashes of another kind ({name})",
            hint="collect both with this version of ksm-estimator",
        )
    return seed
