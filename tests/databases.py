"""Every archive of a test run on PostgreSQL instead of SQLite; see `make test-postgresql`."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from storage.store import Store
from tests import postgresql
from tests.postgresql import Cluster

VARIABLE = "DICOMNODE_TEST_DATABASE"  # postgresql or pgvector: archives under a root get a database there; else SQLite
OWN = "own_database"  # marks tests that choose their databases themselves: they run once, on all of them
PROGRAMS = {"postgresql": postgresql.plain, "pgvector": postgresql.with_pgvector}


@dataclass
class Elsewhere:
    """Where archives have their databases during a run."""

    cluster: Cluster
    engine: str
    made: dict[Path, str] = field(default_factory=dict)

    def url(self, root: Path) -> str:
        """The URL of the database of a root, made when first asked for."""
        root = root.resolve()
        if root not in self.made:
            name = f"r{hashlib.sha256(str(root).encode()).hexdigest()[:24]}"
            self.made[root] = self.cluster.create(name)
        return self.made[root]


_elsewhere: Elsewhere | None = None


def environment(root: str | Path | None) -> dict[str, str]:
    """What a program is to be told about the database of its root; nothing on SQLite."""
    if _elsewhere is None or root is None:
        return {}
    engine = {"DICOMNODE_QUERY__ENGINE": "pgvector"} if _elsewhere.engine == "pgvector" else {}
    return {"DICOMNODE_STORAGE__URL": _elsewhere.url(Path(root))} | engine


def url(root: Path) -> str:
    """The database of a root, for a process that is told by its settings; empty on SQLite."""
    return _elsewhere.url(root) if _elsewhere is not None else ""


def environment_of(arguments: Sequence[str]) -> dict[str, str]:
    """The same, of the --root among a command's arguments."""
    words = list(arguments)
    return environment(words[words.index("--root") + 1] if "--root" in words else None)


@contextmanager
def elsewhere(kind: str) -> Iterator[None]:
    """Have every archive that names no database on PostgreSQL: those of this process, and of programs told so."""
    global _elsewhere  # noqa: PLW0603 - one run, one place
    programs = PROGRAMS[kind]()
    assert programs is not None, f"{kind} is not installed"
    open_at = Store.open

    def opened(root: Path, url: str | None = None, *rest: Any, **named: Any) -> Store:
        assert _elsewhere is not None
        if url is None and kind == "pgvector":
            named.setdefault("engine", "pgvector")
        return open_at(root, url or _elsewhere.url(root), *rest, **named)

    with postgresql.cluster(programs) as cluster, pytest.MonkeyPatch.context() as patch:
        _elsewhere = Elsewhere(cluster, kind)
        patch.setattr(Store, "open", opened)
        patch.setattr(Store, "is_at", lambda root: _elsewhere is not None and root.resolve() in _elsewhere.made)
        yield
        _elsewhere = None
