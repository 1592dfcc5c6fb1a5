"""A receiver and a worker in one process, to be killed: prints what it was told is durable, one line each.

python -m tests.integration.storage.writer ROOT URL FIRST
"""

import sys
import threading
from pathlib import Path

from storage.store import Store
from tests.integration.storage.building import MODEL, put, regions_of


def _say(what: str) -> None:
    sys.stdout.write(what + "\n")
    sys.stdout.flush()


def _receive(store: Store, first: int) -> None:
    for number in range(first, first + 10_000):
        put(store, number, bytes(20_000) + str(number).encode())
        _say(f"stored 4.{number:04}")


def _work(store: Store, owner: str) -> None:
    while True:
        for job in store.jobs.claim(owner, 3600, 4):
            store.jobs.finish(job, regions_of(job.sop_instance_uid))
            _say(f"indexed {job.sop_instance_uid}")
        for generation in store.generations.active():
            store.vectors.warm(generation.id)
        store.vectors.snapshot()


def main(root: str, url: str, first: str) -> None:
    store = Store.open(Path(root), url or None)
    store.sweep(0)
    store.jobs.release("writer.", counts=False)
    store.generations.ensure_live(MODEL)
    threading.Thread(target=_receive, args=(store, int(first)), daemon=True).start()
    _work(store, f"writer.{first}")


if __name__ == "__main__":
    main(*sys.argv[1:])
