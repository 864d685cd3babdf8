"""``python -m estimator``, and what the shell runs as ksm-estimator."""

import signal


def entry() -> None:
    """Import the command line and run it; who interrupts that import gets no traceback.

    Nothing has begun by then that an end without more ado could leave half-done.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from estimator.cli import entry as run

    run()


if __name__ == "__main__":
    entry()
