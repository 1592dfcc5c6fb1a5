"""What a process does to files in, every tree that a power cut can leave of it out. POSIX, at its least kind.

Content counts from its fsync, an entry of a folder (a new name, a rename, a removal) from the fsync of the folder.
Whatever was not synced may be there or not, each entry and each file by itself, in any order.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Op = tuple[Any, ...]


@dataclass
class Node:
    """A file or folder: what is certain of it, and what may be besides."""

    is_folder: bool
    certain: bytes = b""  # a file's content that was synced last
    latest: bytes = b""
    entries: dict[str, list[int | None]] = field(default_factory=dict)  # name -> values since the last sync, it first


class Journal:
    """Records what happens below `root`; `marks` stand between operations."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.operations: list[Op] = []

    def mark(self, what: Any) -> None:
        """Something that is said to be durable from here on."""
        self.operations.append(("mark", what))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Every call of this process that changes names or syncs, until the end."""
        real = {name: getattr(os, name) for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir")}
        os.fsync = self._fsync(real["fsync"])
        os.rename = os.replace = self._rename(real["rename"])  # type: ignore[assignment]
        os.mkdir = self._one("mkdir", real["mkdir"])  # type: ignore[assignment]
        os.unlink = self._one("unlink", real["unlink"])  # type: ignore[assignment]
        os.rmdir = self._one("unlink", real["rmdir"])  # type: ignore[assignment]
        try:
            yield
        finally:
            for name, function in real.items():
                setattr(os, name, function)

    def _inside(self, path: Any) -> str | None:
        whole = Path(os.fspath(path)).absolute()
        return str(whole.relative_to(self._root)) if whole.is_relative_to(self._root) else None

    def _fsync(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def fsync(descriptor: int) -> None:
            real(descriptor)
            path = self._inside(Path(f"/proc/self/fd/{descriptor}").readlink())
            if path is None:
                return
            found = self._root / path
            self.operations.append(("folder", path) if found.is_dir() else ("content", path, found.read_bytes()))

        return fsync

    def _rename(self, real: Callable[..., None]) -> Callable[..., None]:
        def rename(source: Any, target: Any, **keywords: Any) -> None:
            real(source, target, **keywords)
            if (old := self._inside(source)) is not None:
                self.operations.append(("rename", old, self._inside(target)))

        return rename

    def _one(self, kind: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(path: Any, *rest: Any, **keywords: Any) -> None:
            real(path, *rest, **keywords)
            if (inside := self._inside(path)) is not None:
                self.operations.append((kind, inside))

        return call


class Disk:
    """Operations in, the trees that may be there out."""

    def __init__(self) -> None:
        self._nodes: list[Node] = [Node(is_folder=True)]

    def apply(self, operation: Op) -> None:
        """One operation more."""
        kind, *rest = operation
        getattr(self, f"_{kind}")(*rest)

    def _mark(self, _: Any) -> None:
        """No operation."""

    def _mkdir(self, path: str) -> None:
        self._put(path, self._new(is_folder=True))

    def _content(self, path: str, content: bytes) -> None:
        node = self._nodes[self._file(path)]
        node.certain = node.latest = content

    def _folder(self, path: str) -> None:
        node = self._nodes[self._at(path)]
        node.entries = {name: values[-1:] for name, values in node.entries.items()}

    def _rename(self, old: str, new: str) -> None:
        number = self._file(old)
        self._put(old, None)
        self._put(new, number)

    def _unlink(self, path: str) -> None:
        if self._latest(path) is not None:
            self._put(path, None)

    def _new(self, *, is_folder: bool) -> int:
        self._nodes.append(Node(is_folder))
        return len(self._nodes) - 1

    def _put(self, path: str, number: int | None) -> None:
        folder, _, name = path.rpartition("/")
        self._nodes[self._at(folder or ".")].entries.setdefault(name, [None]).append(number)

    def _latest(self, path: str) -> int | None:
        number: int | None = 0
        for name in [] if path == "." else path.split("/"):
            if number is None:
                return None
            number = self._nodes[number].entries.get(name, [None])[-1]
        return number

    def _at(self, path: str) -> int:
        number = self._latest(path)
        if number is not None:
            return number
        folder, _, name = path.rpartition("/")  # was there before the recording
        self._nodes[self._at(folder or ".")].entries[name] = [self._new(is_folder=True)]
        return self._at(path)

    def _file(self, path: str) -> int:
        """A file that is heard of for the first time was made just before."""
        number = self._latest(path)
        if number is None:
            number = self._new(is_folder=False)
            self._put(path, number)
        return number

    def tree(self, choose: Callable[[list[Any]], Any]) -> dict[str, bytes]:
        """Path -> content, one of the trees: `choose` says of each entry and content which of what may be there is."""
        return dict(self._files(self._nodes[0], "", choose))

    def _files(self, node: Node, path: str, choose: Callable[[list[Any]], Any]) -> Iterator[tuple[str, bytes]]:
        if not node.is_folder:
            contents = [node.certain, node.latest, node.latest[: len(node.latest) // 2]]
            yield path, contents[0] if node.certain == node.latest else choose(contents)
            return
        for name, values in node.entries.items():
            number = choose(values)
            if number is not None:
                yield from self._files(self._nodes[number], f"{path}/{name}" if path else name, choose)


def choices(seed: int, count: int) -> list[Callable[[list[Any]], Any]]:
    """The oldest of everything, the newest, and so many at random."""
    chance = random.Random(seed)
    return [lambda values: values[0], lambda values: values[-1], *[chance.choice] * count]
