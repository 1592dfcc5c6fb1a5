"""This node's port and lane with nothing behind them but a durable file: what receiving alone costs.

No header is read, no digest made, nothing catalogued: file synced, renamed, its folder synced, answered. A program of
its own: a folder in; the port on standard output; until it is ended.
"""

import argparse
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from dicomnode import config
from dicomnode.attributes import part10
from dicomnode.dimse.find import FindService
from dicomnode.dimse.receiver import Receiver
from dicomnode.dimse.status import SUCCESS
from dicomnode.dimse.store import StoreService
from dicomnode.dimse.wire import StoreRequest
from storage.durable import sync_folder


class _Written:
    """A data set on its way into a file."""

    def __init__(self, folder: Path, name: str, head: bytes) -> None:
        self._path = folder / f".{name}"
        self._final = folder / name
        self._file = self._path.open("xb", buffering=0)
        self._file.write(head)

    def write(self, pieces: Sequence[memoryview]) -> None:
        """Append them."""
        for piece in pieces:
            self._file.write(piece)

    def end(self) -> tuple[int, str]:
        """Durable on return."""
        os.fsync(self._file.fileno())
        self._path.rename(self._final)
        sync_folder(self._final.parent)
        self.close()
        return SUCCESS, ""

    def close(self) -> None:
        """Nothing more comes."""
        self._file.close()


class BareStores:
    """In the place of `dimse.store.StoreService`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def receive(self, association: Any, request: StoreRequest) -> _Written:
        """Where the data set goes."""
        syntax = str(association._accepted_cx[request.context_id].transfer_syntax[0])
        head = part10.head(request.sop_class_uid, request.sop_instance_uid, syntax)
        return _Written(self._folder, request.sop_instance_uid, head)


def main() -> None:
    """Listen on a free port."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare", description=__doc__)
    parser.add_argument("folder", type=Path)
    ending = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)  # in all threads
    folder: Path = parser.parse_args().folder
    settings = config.load(None, {}, {"dimse.host": "127.0.0.1", "dimse.port": 0})
    stores = cast(StoreService, BareStores(folder))
    receiver = Receiver(settings, None, stores, FindService(lambda question: iter(())), {})
    receiver.start()
    print(receiver.port, flush=True)
    signal.sigwait(ending)
    receiver.stop()


if __name__ == "__main__":
    main()
