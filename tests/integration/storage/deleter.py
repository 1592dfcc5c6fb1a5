"""A deletion that kills itself on the way: kill -9 before a statement, before the commit, or between two files.

python -m tests.integration.storage.deleter ROOT URL STUDY WHERE NUMBER
"""

import os
import signal
import sys
from pathlib import Path

from sqlalchemy import event

from storage.records import Equals
from storage.store import Store


class Fuse:
    """Kills this process at its n-th call."""

    def __init__(self, calls: int) -> None:
        self._left = calls

    def __call__(self, *_: object, **__: object) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main(root: str, url: str, study: str, where: str, number: str) -> None:
    store = Store.open(Path(root), url or None)
    deleting = store.deletion.delete([Equals("study_instance_uid", study)])
    fuse = Fuse(int(number))
    if where == "file":
        remove = store.files.remove
        store.files.remove = lambda path: (fuse(), remove(path))  # type: ignore[method-assign, assignment]
    else:
        name = {"statement": "before_cursor_execute", "commit": "commit"}[where]
        event.listen(store._database._writer, name, fuse)
    list(deleting)
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
