"""What a notebook gets from ``import estimator``."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import estimator
from estimator.errors import UsageError


def imported_for_type_checkers() -> dict[str, str]:
    """Name and module of each import under TYPE_CHECKING."""
    tree = ast.parse(Path(estimator.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    found = {}
    for line in block.body:
        assert isinstance(line, ast.ImportFrom)
        assert line.module
        for alias in line.names:
            assert alias.asname == alias.name  # the form that says: for others as well
            found[alias.name] = line.module.removeprefix("estimator.")
    return found


def test_type_checkers_see_the_table() -> None:
    assert imported_for_type_checkers() == estimator._MODULE_OF
    assert set(estimator.__all__) == {"__version__", *estimator._MODULE_OF}


@pytest.mark.parametrize("name", estimator.__all__)
def test_each_name_is_there_and_explained(name: str) -> None:
    assert name in dir(estimator)
    assert getattr(estimator, name).__doc__


def test_completion_imports_nothing() -> None:
    code = "import estimator, sys; assert 'predict' in dir(estimator); "
    code += "assert not {'pandas', 'drgn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        estimator.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: estimator.Policy(comms="redis"), r"comms=\('redis',\)"),  # type: ignore[arg-type]
        (lambda: estimator.Policy(cgroups="/a"), r"cgroups=\('/a',\)"),  # type: ignore[arg-type]
        (lambda: estimator.Policy(pids=7), r"pids=\(7,\)"),  # type: ignore[arg-type]
        (lambda: estimator.Policy(uids=0), r"uids=\(0,\)"),  # type: ignore[arg-type]
    ],
)
def test_a_lone_selector_is_refused(make: Callable[[], object], hint: str) -> None:
    with pytest.raises(UsageError, match=f"not a tuple; {hint}"):
        make()
