"""Stores on every database: SQLite in a folder, PostgreSQL in a throw-away cluster, with pgvector where it is asked."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.store import Store
from tests.integration.storage.building import ON_POSTGRESQL, Bench


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them choose theirs."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.own_database)


@pytest.fixture(params=["sqlite", ON_POSTGRESQL])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A place for stores, on each database; of "pgvector" with indexes that are the database's, for who asks for it."""
    url = None if request.param == "sqlite" else request.getfixturevalue(request.param)
    bench = Bench(tmp_path / "root", url, "pgvector" if request.param == "pgvector" else "auto")
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
