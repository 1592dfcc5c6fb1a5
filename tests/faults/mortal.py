"""The program, with death at a named point and a quick model: `python -m tests.faults.mortal serve ...`.

Every process that it starts is started the same way: `python -m tests.faults.mortal dicomnode.workers.indexer FD`.
FAULT names the point, see `points`; MODEL=shipped leaves the models as they are; BUSY_S is how long SQLite waits.
"""

import importlib
import os
import subprocess
import sys
from typing import Any

from tests.faults import points

WORKERS = "dicomnode.workers."
SNAPSHOT_EVERY, CALIBRATE_EVERY, SCRIBE_AFTER = 2, 5, 3  # rounds: a storm does not wait for minutes


def main() -> None:
    """Change this process, then be what was asked for."""
    fault = points.Fault.given()
    is_child = len(sys.argv) > 1 and sys.argv[1].startswith(WORKERS)
    _start_children_so()
    if busy := os.environ.get("BUSY_S"):
        _wait_less(busy)
    if os.environ.get("MODEL") != "shipped":
        _quick_model()
    if not is_child:
        _often()
    if fault is not None:
        points.arm(fault)
    if is_child:
        importlib.import_module(sys.argv.pop(1)).main()
    else:
        from dicomnode.__main__ import main as program

        program()


def _start_children_so() -> None:
    from dicomnode.workers import child

    class Starting:
        """`subprocess` as `child` sees it."""

        DEVNULL, TimeoutExpired = subprocess.DEVNULL, subprocess.TimeoutExpired

        @staticmethod
        def Popen(command: list[str], **keywords: Any) -> "subprocess.Popen[bytes]":
            return subprocess.Popen([*command[:2], __spec__.name, *command[2:]], **keywords)

    child.subprocess = Starting  # type: ignore[assignment]


def _quick_model() -> None:
    from dicomnode import models
    from encoder import pipeline
    from tests.faults.quick import QuickPipeline

    pipeline.Pipeline = QuickPipeline  # type: ignore[assignment,misc]
    models.prove = pipeline.describe


def _wait_less(busy_s: str) -> None:
    """SQLite waits for so many seconds for who else writes."""
    from storage import database

    database.BUSY_TIMEOUT_S = float(busy_s)


def _often() -> None:
    from dicomnode import index_keeper, node

    node.SCRIBE_AFTER = SCRIBE_AFTER
    index_keeper.SNAPSHOT_EVERY, index_keeper.CALIBRATE_EVERY = SNAPSHOT_EVERY, CALIBRATE_EVERY


if __name__ == "__main__":
    main()
