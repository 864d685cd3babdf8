"""Something happens at any line of some modules: what is whole afterwards?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any


def ended_by(
    files: Collection[str | None], at_line: Callable[[FrameType], None], work: Callable[[], object]
) -> bool:
    """Do ``work``, with ``at_line`` before each line of ``files``; say if it was interrupted."""

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            at_line(frame)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False
