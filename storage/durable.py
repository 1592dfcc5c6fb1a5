"""Paths in, files out that are complete or absent: scratch, sync, rename, sync the folder."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import FileError, StorageFull

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def reported(doing: str) -> Iterator[None]:
    """OSError as StorageFull or FileError, saying what was being done."""
    try:
        yield
    except OSError as error:
        words = f"{doing}: {error.strerror or error}"
        raise (StorageFull(words) if error.errno in FULL else FileError(words)) from error


def sync_folder(folder: Path) -> None:
    """Make the folder's entries (new names, renames, removals) survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, top: Path) -> list[Path]:
    """Make `folder` below `top`, which exists; returns the folders that got a new entry and are not synced yet."""
    if folder == top or folder.is_dir():
        return []
    unsynced = make_folder(folder.parent, top)
    folder.mkdir(exist_ok=True)
    return [folder.parent, *unsynced]


def sync_folders(folders: Iterable[Path]) -> None:
    """`sync_folder` for each."""
    for folder in folders:
        sync_folder(folder)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a scratch path beside `path`; when the block succeeds it becomes `path`, on disk. Else nothing changed."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield scratch
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
        sync_folder(path.parent)
    finally:
        scratch.unlink(missing_ok=True)
