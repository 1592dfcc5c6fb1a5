"""`python -m tests.faults --kills N --seed S`: storms of kill -9 against a real node; exit 1 on a violation."""

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests import postgresql
from tests.faults.oracle import Place
from tests.faults.storm import Report, Storm


class Progress:
    """A line after each round."""

    def __init__(self, kills: int) -> None:
        self._kills = kills
        self._started = time.monotonic()

    def __call__(self, report: Report) -> None:
        elapsed_s = time.monotonic() - self._started
        acknowledged, wrong = report.acknowledged, len(report.wrong)
        done = f"{report.killed} of {self._kills} kills in {report.rounds} rounds, {elapsed_s:.0f} s"
        print(f"{done}: {acknowledged} instances acknowledged, {wrong} violations", flush=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--keep", type=Path, help="folder for archive and logs, which stay (default: a temporary one)")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        sent = folder / "sent"
        sent.mkdir(parents=True)
        url = ""
        if given.database == "postgresql":
            url = stack.enter_context(postgresql.cluster(postgresql.DEBIAN)).create("storm")
        report = Storm(Place(folder / "root", url), sent, given.seed).run(given.kills, Progress(given.kills))
    print(report.text(), f"seed {given.seed}, {given.database}", sep="\n")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
