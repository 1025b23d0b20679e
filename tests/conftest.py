"""What holds for every test: where the package under test comes from is shown, and enforced where it matters."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

import wfes.errors

PACKAGE = Path(wfes.errors.__file__).resolve().parents[1]
CHECKOUT = Path(__file__).resolve().parent.parent


def pytest_report_header() -> str:
    return f"wfes: {PACKAGE}"


def pytest_configure() -> None:
    """With WFES_TEST_INSTALLED set, as `make ci` does, the tests refuse to run on the source tree."""
    if os.environ.get("WFES_TEST_INSTALLED") and PACKAGE.parent == CHECKOUT:
        raise pytest.UsageError(
            f"the tests were to run on the installed wheel, but wfes is imported from {PACKAGE}"
        )


@pytest.fixture
def postgres_url() -> Generator[str]:
    """An empty database of a real PostgreSQL; it is never skipped."""
    from pg_server import database

    with database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Path]:
    """A trial's folder, with its log in each of the databases; see `places`."""
    from places import placed

    with placed(tmp_path, request.param):
        yield tmp_path
