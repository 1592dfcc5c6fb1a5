"""A node without workers: everything is kept, nothing is indexed, and it starts fast."""

from collections.abc import Iterator

import pytest

from tests import nodes
from tests.nodes import RunningNode


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with nodes.running_node(tmp_path_factory.mktemp("node") / "root", "--workers", "0") as running:
        yield running
