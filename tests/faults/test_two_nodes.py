"""Two nodes on one root: the second is refused in one line; after kill -9 of the first there is room at once."""

import psutil
import pytest

from dicomnode.dimse import client
from tests import nodes
from tests.faults.storm import PROGRAM


@pytest.mark.timeout(300)
def test_a_second_node_is_refused_and_takes_over_from_a_killed_one(tmp_path):
    root = tmp_path / "root"
    with nodes.running_node(root, "--workers", "1", module=PROGRAM) as first:
        done = nodes.dicomnode("serve", "--root", root, "--port", "0", check=False)
        assert done.returncode == 1
        assert done.stderr == f"dicomnode: a node is running already on {root}\n"
        assert client.echo(first.peer) == 0
        children = psutil.Process(first.process.pid).children(recursive=True)
        for child in children:
            child.suspend()  # they outlive the first for as long as they sleep: none of them holds its lock
        first.process.kill()
        first.process.wait()
        try:
            with nodes.running_node(root, "--workers", "1", module=PROGRAM) as second:
                assert client.echo(second.peer) == 0
        finally:
            for child in children:
                child.resume()
        _, alive = psutil.wait_procs(children, timeout=60)
        assert alive == []
