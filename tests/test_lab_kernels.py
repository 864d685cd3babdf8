"""Which of Debian's packages are kernels of a series of the lab."""

from __future__ import annotations

import re

import pytest

from tests.lab import prepare
from tests.lab.apt import LabError
from tests.lab.kernels import _pattern


@pytest.mark.parametrize(
    ("series", "package"),
    [
        ("7.3", "linux-image-7.3.4+deb13-cloud-amd64"),
        ("6.12", "linux-image-6.12.117+deb12-cloud-amd64"),
        ("6.1", "linux-image-6.1.0-56-cloud-amd64"),
        ("5.10", "linux-image-5.10.0-43-cloud-amd64"),
        ("6.12-arm64", "linux-image-6.12.117+deb13-cloud-arm64"),
        ("6.12-arm64-16k", "linux-image-6.12.117+deb13-arm64-16k"),
    ],
)
def test_the_kernel_of_a_series(series: str, package: str) -> None:
    assert re.search(f"{_pattern(series, 'linux-image-')}-dbg$", f"{package}-dbg")


@pytest.mark.parametrize(
    "package", ["linux-image-6.12.117+deb12-cloud-amd64", "linux-image-6.1.0-56-rt-amd64"]
)
def test_another_kernel(package: str) -> None:
    assert not re.search(_pattern("6.1", "linux-image-"), package)


def test_what_cannot_be_made_is_told_and_the_rest_is_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []

    def fail() -> None:
        raise LabError("no network")

    monkeypatch.setattr(
        prepare, "_steps", lambda: [("one", fail), ("other", lambda: made.append(1))]
    )
    prepare.prepare()
    assert made == [1]
    assert capsys.readouterr().err.splitlines() == ["lab: one: no network", "lab: other: 0 s"]
