"""`python -m tests.fuzz --objects N --seed S`: mutated objects against a real node; exit 1 on a violation."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from tests import nodes
from tests.conftest import PROJECT
from tests.fuzz import objects, run

SETTLE_S = 1800.0
EVERY_S = 10.0


class Progress:
    """A line now and then."""

    def __init__(self, objects: int) -> None:
        self._objects = objects
        self._started = self._told = time.monotonic()

    def __call__(self, done: int, report: run.Report) -> None:
        """After each object."""
        now = time.monotonic()
        if now - self._told < EVERY_S and done < self._objects:
            return
        self._told = now
        rate = done / (now - self._started)
        print(f"{done} of {self._objects}, {rate:.0f} a second, {len(report.wrong)} violations", flush=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    data = Path(os.environ.get("DICOMNODE_DATA", PROJECT.parent / "shared" / "data"))
    with (
        tempfile.TemporaryDirectory() as folder,
        nodes.running_node(Path(folder) / "root", environment=run.ENVIRONMENT) as node,
    ):
        fuzz = run.Fuzz(node, objects.samples(data), given.seed)
        report = fuzz.run(given.objects, Progress(given.objects))
        run.settle(node, SETTLE_S)
        counts = run.check(node, report)
    print(report.text(), counts, f"seed {given.seed}", sep="\n")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
