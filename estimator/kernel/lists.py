"""Linked lists in a kernel that may be damaged: a list that leads back into itself must end."""

from __future__ import annotations

from estimator.kernel.memory import Mask, Words


class LoopGuard:
    """Finds loops in many lists that are walked in step, one entry of each at a time.

    As Brent's algorithm: each list is compared with where it was at the last power of two.
    """

    def __init__(self, address: Words) -> None:
        self._mark = address
        self._steps = 0
        self._next_mark = 1
        self.loops = 0

    def fresh(self, goes_on: Mask, following: Words) -> Mask:
        """Which of the entries ``following`` are not known to have been met before.

        ``goes_on``: which of the lists of the last step have an entry in ``following``. The lists
        of the next step are those that are True here.
        """
        mark = self._mark[goes_on]
        fresh: Mask = following != mark
        self.loops += int((~fresh).sum())
        self._steps += 1
        if self._steps == self._next_mark:
            self._mark = following[fresh]
            self._next_mark *= 2
        else:
            self._mark = mark[fresh]
        return fresh
