"""The drgn command %ksm-estimate. drgn imports this at every start: nothing else at the top."""

from __future__ import annotations

import argparse
from typing import Any

from drgn import Program
from drgn.commands import CommandError, argument
from drgn.commands.linux import linux_kernel_command


@linux_kernel_command(  # type: ignore[untyped-decorator]
    name="ksm-estimate",
    description="predict what KSM would save in this kernel",
    arguments=(
        argument(
            "--scope",
            choices=("all", "enabled"),
            default="all",
            help="all: every process opted in (default); enabled: what is VM_MERGEABLE now",
        ),
        argument("-p", "--pid", type=int, action="append", help="only this process; repeatable"),
        argument("-o", "--output", metavar="NAME.ksm", help="keep the snapshot"),
        argument(
            "--without-contents",
            action="store_true",
            help="read no page of any process: an upper bound, also from a dump without user pages",
        ),
    ),
)
def _cmd_ksm_estimate(prog: Program, name: str, args: argparse.Namespace, **_: Any) -> Any:
    """Print the report; the prediction or bound is returned: the user finds it in ``_``."""
    import sys
    from pathlib import Path

    from estimator.collect.load import low_priority
    from estimator.errors import EstimatorError
    from estimator.kernel.collect import collect_program
    from estimator.ksm.policy import Policy
    from estimator.ksm.predict import predict
    from estimator.ksm.upper_bound import upper_bound
    from estimator.report.tables import make_console
    from estimator.report.text import render, render_bound
    from estimator.snapshot.store import check_output, write_snapshot
    from estimator.units import printable

    try:
        if args.output:
            check_output(Path(args.output))
        with low_priority():
            snapshot = collect_program(prog, without_contents=args.without_contents)
        if args.output:
            write_snapshot(snapshot, Path(args.output))
        policy = Policy(scope=args.scope, pids=tuple(args.pid or ()))
        if args.without_contents:
            bound = upper_bound(snapshot, policy)
            render_bound(snapshot, bound, make_console(sys.stdout))
            return bound
        prediction = predict(snapshot, policy)
    except EstimatorError as error:
        raise CommandError(printable(f"{name}: {error}")) from error
    render(snapshot, prediction, make_console(sys.stdout))
    return prediction
