"""Who may do what alone on a root: a path in, a lock held as long as its process lives out."""

import fcntl
import time
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from dicomnode.errors import DicomNodeError

LOOK_S = 0.5  # a command that asks whether a node runs holds its lock for a moment


class Lock:
    """An advisory lock on a file under the root: one node, one reindexing at a time on one archive."""

    def __init__(self, path: Path, holder: str, *, shared: bool = False, wait_s: float = 0.0) -> None:
        """`shared`: with others that share it too, and with nobody who does not.

        `wait_s`: how long another may hold it for a look whether anybody does.
        """
        self._path = path
        self._holder = holder
        self._kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._wait_s = wait_s
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a")
        except OSError as error:
            raise DicomNodeError(f"cannot use {self._path.parent}: {error.strerror}") from error
        deadline = time.monotonic() + self._wait_s
        while not self._is_had():
            if time.monotonic() >= deadline:
                self._file.close()
                raise DicomNodeError(f"{self._holder} is running already on {self._path.parent}")
            time.sleep(0.05)
        return self

    def _is_had(self) -> bool:
        assert self._file is not None
        try:
            fcntl.flock(self._file, self._kind | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
