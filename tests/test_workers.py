"""Work spread over forked processes."""

from __future__ import annotations

import numpy as np
import pytest

from estimator.collect.workers import Pieces, forked, shared_columns

COUNT = 20_000


def test_every_piece_is_for_one_process() -> None:
    columns = shared_columns(COUNT, {"taken": np.uint8})
    pieces = Pieces(COUNT)

    def take() -> None:
        for number in pieces:
            columns["taken"][number] += 1

    with forked(3, take):
        take()
    assert (columns["taken"] == 1).all()


def test_a_worker_that_fails_is_not_overlooked() -> None:
    def fail() -> None:
        raise ValueError("as intended")

    with pytest.raises(RuntimeError, match="worker ended"), forked(2, fail):
        pass
