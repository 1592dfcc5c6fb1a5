"""Paths of files, folders and archives (zip, tar) in; their files out, one after the other, open for reading.

Nothing is unpacked. Members that follow each other are read in one pass: a packed tar can only be read from its start.
"""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from dicomnode.errors import DicomNodeError

DICOMDIR = "DICOMDIR"  # a directory of files, no instance. PS3.10 8.6
UNREADABLE = (  # what opening and reading raise
    *(OSError, EOFError, KeyError, RuntimeError),
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
)


@dataclass(frozen=True)
class Source:
    """A file, or a member of an archive."""

    path: Path
    member: str = ""
    fault: str = ""  # why there is nothing to be read

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)


def sources(paths: list[Path]) -> list[Source]:
    """Every file of the paths and below the folders, in order, and every member of an archive. DicomNodeError."""
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise DicomNodeError(f"no such file or folder: {', '.join(missing)}")
    return [source for path in paths for file in _files(path) for source in _inside(file)]


def _files(path: Path) -> Iterator[Path]:
    return iter(sorted(each for each in path.rglob("*") if each.is_file())) if path.is_dir() else iter((path,))


def _inside(path: Path) -> Iterator[Source]:
    if path.name == DICOMDIR:
        return
    try:
        names = _names(path)
        if names is None:
            yield Source(path)
        for name in names or ():
            if Path(name).name != DICOMDIR:
                yield Source(path, name)
    except UNREADABLE as error:  # what comes before it may be whole
        yield Source(path, fault=f"cannot be read to its end: {type(error).__name__}")


def _names(path: Path) -> Iterator[str] | None:
    """The files of an archive; None when it is none. Raises one of UNREADABLE, as its iteration does."""
    if path.suffix.lower() == ".zip" and _begins(path, b"PK"):
        with zipfile.ZipFile(path) as archive:
            return iter([each.filename for each in archive.infolist() if not each.is_dir()])
    if {".tar", ".tgz"} & {suffix.lower() for suffix in path.suffixes}:
        with suppress(tarfile.ReadError):
            return _listed(tarfile.open(path))
    return None


def _begins(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _listed(tar: tarfile.TarFile) -> Iterator[str]:
    with tar:
        yield from (each.name for each in tar if each.isfile())


class Opener:
    """Opens sources; the archive of the last one stays open, at the place behind it. For one thread."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._zip: zipfile.ZipFile | None = None
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    @contextmanager
    def opened(self, source: Source) -> Iterator[IO[bytes]]:
        """Its content. Raises one of UNREADABLE; so may reading."""
        if not source.member:
            with source.path.open("rb") as file:
                yield file
            return
        if source.path != self._path:
            self._turn_to(source.path)
        with self._member(source.member) as file:
            yield file

    def _turn_to(self, path: Path) -> None:
        self._leave()
        if zipfile.is_zipfile(path):
            self._zip = zipfile.ZipFile(path)
        else:
            self._tar = tarfile.open(path)  # noqa: SIM115 - until the next archive, or the end
        self._path = path

    def _member(self, name: str) -> IO[bytes]:
        if self._zip is not None:
            return self._zip.open(name)
        assert self._tar is not None, "an archive is open"
        found = self._next(self._tar, name)
        content = self._tar.extractfile(found) if found is not None else None
        if content is None:
            raise KeyError(name)
        return content

    @staticmethod
    def _next(tar: tarfile.TarFile, name: str) -> tarfile.TarInfo | None:
        """The next member of that name; the last of all where it lies behind."""
        while (found := tar.next()) is not None:
            if found.name == name:
                return found
        return tar.getmember(name)

    def _leave(self) -> None:
        for archive in (self._zip, self._tar):
            if archive is not None:
                archive.close()
        self._path = self._zip = self._tar = None
