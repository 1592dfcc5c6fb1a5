"""Stores on every database: SQLite in a folder, PostgreSQL in a throw-away cluster."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.store import Store
from tests import postgresql as servers
from tests.integration.storage.building import Bench


@pytest.fixture(scope="session")
def cluster() -> Iterator[servers.Cluster]:
    """A running cluster."""
    if not servers.is_installed():
        reason = f"PostgreSQL is not installed in {servers.PROGRAMS}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with servers.cluster() as running:
        yield running


@pytest.fixture
def postgresql(cluster: servers.Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database."""
    name = f"t{abs(hash(request.node.nodeid)):x}"
    yield cluster.create(name)
    cluster.drop(name)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A place for stores, on each database."""
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    bench = Bench(tmp_path / "root", url)
    yield bench
    for store in bench.opened:
        store.close()


@pytest.fixture
def store(bench: Bench) -> Store:
    return bench.open()


@pytest.fixture
def in_threads() -> Callable[..., None]:
    """Run functions at once and raise what any of them raised."""

    def run(*functions: Callable[[], object]) -> None:
        with ThreadPoolExecutor(len(functions)) as pool:
            for future in [pool.submit(function) for function in functions]:
                future.result()

    return run
