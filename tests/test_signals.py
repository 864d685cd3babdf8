"""Signals wait until they are asked for, once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from estimator.signals import interrupts_wait


def end(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _raising() -> Iterator[None]:
    """As the command line has it."""
    before = signal.signal(signal.SIGINT, end)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_comes_when_it_is_asked_for() -> None:
    reached = []

    def work() -> None:
        with interrupts_wait() as interrupt:
            interrupt()
            signal.raise_signal(signal.SIGINT)
            reached.append("behind the signal")
            interrupt()
            reached.append("behind the question")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["behind the signal"]
    assert signal.getsignal(signal.SIGINT) is end


def test_at_the_end_it_comes_unasked() -> None:
    reached = []

    def work() -> None:
        with interrupts_wait():
            signal.raise_signal(signal.SIGINT)
            reached.append("the end")
        reached.append("behind it")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["the end"]


def test_the_second_one_does_not_wait() -> None:
    reached = []

    def work() -> None:
        with interrupts_wait():
            signal.raise_signal(signal.SIGINT)
            reached.append("first")
            signal.raise_signal(signal.SIGINT)
            reached.append("second")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["first"]


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_wait() as interrupt:
        signal.raise_signal(signal.SIGINT)
        interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_leaves_signals_alone() -> None:
    handlers = []

    def work() -> None:
        with interrupts_wait() as interrupt:
            interrupt()
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [end]
