"""What is built from this clone installs and runs, with all of its files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from estimator._version import __version__

REPO = Path(__file__).parents[1]
WANTED = {
    "estimator/py.typed",
    "estimator/report/README.md",
    "estimator/report/templates/report.html.j2",
    "estimator/report/templates/fragment.html.j2",
    "estimator/report/templates/report.css",
    "estimator/report/templates/report.js",
}
SHARED = {
    "man/man1/ksm-estimator.1",
    "bash-completion/completions/ksm-estimator",
    "zsh/site-functions/_ksm-estimator",
    "fish/vendor_completions.d/ksm-estimator.fish",
}


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*map(str, command)],
        env=plain,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        **options,  # type: ignore[call-overload]
    )


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with what building and --version need; skips without a network."""
    place = tmp_path_factory.mktemp("packaging") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", place).check_returncode()
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", place)
    got = run(*pip, "install", "--quiet", "--retries=1", "build", "setuptools>=77", "click")
    if got.returncode:
        pytest.skip(f"no packages to build with: {got.stderr[-200:]}")
    return place / "bin/python"


@pytest.fixture(scope="module")
def built(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the source distribution and the wheel made from it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    for name in ("estimator", "share"):
        shutil.copytree(REPO / name, source / name)
    done = run(python, "-m", "build", "--no-isolation", cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Deprecat" not in done.stdout + done.stderr
    return source / "dist"


def test_wheel_is_complete(built: Path) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        said = message_from_bytes(wheel.read(metadata))
    modules = {str(file.relative_to(REPO)) for file in (REPO / "estimator").rglob("*.py")}
    assert modules | WANTED <= names
    shared = f"ksm_estimator-{__version__}.data/data/share/"
    assert {name.removeprefix(shared) for name in names if name.startswith(shared)} == SHARED
    others = {name.split("/")[0] for name in names if not name.startswith(shared)}
    assert others == {"estimator", metadata.split("/")[0]}
    assert said["Version"] == __version__
    assert said["License-Expression"] == "MIT"
    assert said.get_all("License-File") == ["LICENSE"]
    assert "https://docs.kernel.org/" in said["Project-URL"]


def test_source_distribution_is_complete(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {*WANTED, "pyproject.toml", "README.md", "LICENSE"} <= names
    assert {f"share/{name}" for name in SHARED} <= names


def test_what_is_installed_runs(built: Path, python: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", python.parents[1])
    run(*pip, "install", "--quiet", "--no-deps", wheel).check_returncode()
    done = run(python.parent / "ksm-estimator", "--version", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"ksm-estimator, version {__version__}\n"
    assert (python.parents[1] / "share/man/man1/ksm-estimator.1").is_file()
    code = "import estimator; print(estimator.__file__)"
    assert str(python.parents[1]) in run(python, "-c", code, cwd=tmp_path).stdout
