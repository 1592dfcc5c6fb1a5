"""Bytes as they arrive in, complete and synced files out: one for each instance, named by hashes.

root/scratch/ holds what is arriving, root/files/ab/<sha256 of UID>.<content>.<token>.dcm what is kept. The token makes
every name new, so that nothing is ever renamed over a file that a row points to. There are 256 folders, no more: a new
one is a second folder to sync. (Archives of earlier versions have files a level deeper, which stay.)
"""

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from storage.durable import make_folder, reported, sync_folders
from storage.errors import FileError
from storage.records import KeptFile

QUARANTINE = "quarantine"
AT_ONCE = 64  # pieces that are written by one call
PIECE = 1 << 20  # bytes read at once when a file is hashed


class Scratch:
    """A file that is arriving. Locked while open, so that a sweep can tell it from a dead process's left-over.

    As a context manager it discards itself at the end, unless it was kept.
    """

    def __init__(self, path: Path) -> None:
        with reported("scratch file"):
            self.path = path
            self._file = path.open("xb", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._hash = hashlib.sha256()
        self._is_kept = False
        self.size = 0  # bytes written

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    @property
    def sha256(self) -> str:
        """Hex, of what was written so far."""
        return self._hash.hexdigest()

    def write(self, *pieces: bytes | bytearray | memoryview) -> None:
        """Append. StorageFull when there is no room, FileError else; the scratch is then only good to discard."""
        for piece in pieces:
            self._hash.update(piece)
        size = sum(map(len, pieces))
        self.size += size
        with reported("scratch file"):
            # At once, as each call gives other threads their turn; the kernel takes so many and no more.
            gathered = pieces if len(pieces) <= AT_ONCE else (b"".join(pieces),)
            written = os.writev(self._file.fileno(), gathered)
            if written < size:
                rest = memoryview(b"".join(pieces))[written:]
                while rest:
                    rest = rest[self._file.write(rest) or 0 :]

    def sync(self) -> None:
        """Make the content durable."""
        with reported("scratch file"):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def discard(self) -> None:
        """Remove it; nothing happens when it was kept or discarded before."""
        self.close()
        if not self._is_kept:
            with reported("scratch file"):
                self.path.unlink(missing_ok=True)

    def move(self, target: Path) -> None:
        """Give the file its final name. OSError."""
        self.path.rename(target)
        self._is_kept = True


class Files:
    """The folders `files` and `scratch` under one root. Safe for threads and processes.

    Memory bound: nothing of a file's content is kept; a sweep holds the names of one 256th of the archive.
    """

    def __init__(self, root: Path, token: Callable[[], str] = lambda: secrets.token_hex(8)) -> None:
        """`token` makes names that nobody made before. FileError when the folders cannot be made."""
        self.root = root
        self._token = token
        self._kept, self._scratch = root / "files", root / "scratch"
        with reported("root folder"):
            root.mkdir(parents=True, exist_ok=True)
            for folder in (self._kept, self._scratch):
                sync_folders(make_folder(folder, root))
            self._opened = self._identity()

    @staticmethod
    def are_at(root: Path) -> bool:
        """Whether a root has the folders."""
        return (root / "files").is_dir() and (root / "scratch").is_dir()

    def _identity(self) -> tuple[int, int]:
        """Which folder lies behind the path now: that of another device when a mount has gone or come."""
        found = self._kept.stat()
        return found.st_dev, found.st_ino

    def is_there(self) -> bool:
        """Whether the folder that was opened is the one that its path leads to."""
        try:
            return self._identity() == self._opened
        except OSError:
            return False

    def scratch(self) -> Scratch:
        """A new scratch file. FileError too when the archive's device has gone: what was kept then would be lost."""
        if not self.is_there():
            raise FileError("root folder: not the one that was opened")
        return Scratch(self._scratch / self._token())

    def keep(self, scratch: Scratch, uid: str) -> KeptFile:
        """Make the scratch file durable under its final name. After this only the row is missing.

        StorageFull, FileError: the scratch file is still there and still good to discard.
        """
        name = hashlib.sha256(uid.encode()).hexdigest()
        folder = self._kept / name[:2]
        final = folder / f"{name}.{scratch.sha256[:16]}.{self._token()}.dcm"
        with reported("keeping a file"):
            # New folders first: a journal takes them along with the file, and syncing them then costs little.
            grown = make_folder(folder, self._kept)
            scratch.sync()
            scratch.move(final)
            sync_folders([folder, *grown])
        scratch.close()
        return KeptFile(str(final.relative_to(self.root)), scratch.sha256, scratch.size)

    def path(self, relative: str) -> Path:
        """Where a kept file is, from the path its row names."""
        return self.root / relative

    def has(self, relative: str) -> bool:
        """Whether a kept file is there."""
        return self.path(relative).is_file()

    def remove(self, relative: str) -> None:
        """Remove a file that no row points to any more; one that is gone already is no error."""
        with reported("removing a file"):
            self.path(relative).unlink(missing_ok=True)

    def digest(self, relative: str) -> KeptFile:
        """The file as it is on disk now. FileError when it cannot be read."""
        content, size = hashlib.sha256(), 0
        with reported("reading a file"), self.path(relative).open("rb") as file:
            while piece := file.read(PIECE):
                content.update(piece)
                size += len(piece)
        return KeptFile(relative, content.hexdigest(), size)

    def measured(self, relative: str, sha256: str) -> KeptFile:
        """The file by its size alone, its digest taken for granted. FileError when it is not there."""
        with reported("looking at a file"):
            return KeptFile(relative, sha256, self.path(relative).stat().st_size)

    def prefixes(self) -> Iterator[str]:
        """What relative paths begin with, one after the other."""
        return (f"{self._kept.name}/{number:02x}/" for number in range(256))

    def under(self, prefix: str) -> set[str]:
        """The relative paths of the files there are below a prefix."""
        found = (path for path in (self.root / prefix).rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)) for path in found}

    def changed(self, relative: str) -> float:
        """When a file was kept, seconds since 1970; infinity when it is gone."""
        return _changed(self.path(relative))

    def quarantine(self, relative: str) -> Path:
        """Take a file that no row points to out of the archive, to a folder of its own; where it is now."""
        folder = self.root / QUARANTINE
        with reported("quarantine"):
            folder.mkdir(mode=0o700, exist_ok=True)
            target = folder / Path(relative).name
            self.path(relative).rename(target)
            sync_folders([self.root, folder, self.path(relative).parent])
        return target

    def sweep(self, referenced: Callable[[str], set[str]], older_than: float) -> int:
        """Remove what no process is writing and no row points to; returns how many files went.

        `referenced` gives the paths under a prefix that rows point to. Files changed since `older_than` (seconds
        since 1970) stay: they may be between creation and lock, or between rename and row.
        """
        removed = sum(_remove_if_left(path) for path in self._scratch.iterdir() if _changed(path) < older_than)
        for prefix in self.prefixes():
            paths = self.under(prefix)
            old = [path for path in paths if _changed(self.path(path)) < older_than]
            # Asked after the listing: a row written in between saves its file.
            for path in sorted(set(old) - referenced(prefix)) if old else ():
                self.remove(path)
                removed += 1
        return removed

    def total_bytes(self) -> int:
        """Size of the device of the root."""
        with reported("disk usage"):
            return shutil.disk_usage(self.root).total

    def free_bytes(self) -> int:
        """Room on the device of the root."""
        with reported("disk usage"):
            return shutil.disk_usage(self.root).free


def _changed(path: Path) -> float:
    try:
        return path.stat().st_ctime  # a rename counts: it is when the file was kept
    except FileNotFoundError:
        return float("inf")  # removed by somebody else meanwhile


def _remove_if_left(path: Path) -> bool:
    """Remove a scratch file nobody holds open."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return False
    except OSError as error:
        raise FileError(f"scratch file: {error.strerror}") from error
    return True
