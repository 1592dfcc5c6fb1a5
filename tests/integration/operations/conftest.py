"""A node that has seen everything, once for the tests that judge what it left."""

from collections.abc import Iterator

import pytest

from tests.integration.operations import traffic
from tests.integration.operations.traffic import Seen


@pytest.fixture(scope="session")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    with traffic.seen(tmp_path_factory.mktemp("seen")) as made:
        yield made
