"""Debian's PostgreSQL in, a throw-away cluster out: databases in it by URL; it can be stopped and started again."""

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

PROGRAMS = Path("/usr/lib/postgresql/15/bin")


def is_installed() -> bool:
    return (PROGRAMS / "initdb").exists()


@dataclass(frozen=True)
class Cluster:
    """A cluster that only this machine can reach, by a socket in its folder."""

    folder: Path

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def create(self, database: str) -> str:
        """An empty database; its URL."""
        self._say(f"CREATE DATABASE {database}")
        return self.url(database)

    def drop(self, database: str) -> None:
        self._say(f"DROP DATABASE {database} WITH (FORCE)")

    def start(self) -> None:
        """Have it answer."""
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off -c max_connections=200"
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-o", options, "-w", "start")

    def stop(self) -> None:
        """End it as a power cut would."""
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-m", "immediate", "-w", "stop")

    def run(self, *words: str) -> None:
        """One of PostgreSQL's programs."""
        command = [str(PROGRAMS / words[0]), *words[1:]]
        subprocess.run(command, user=_user(), cwd="/", check=True, stdout=subprocess.DEVNULL)

    def _say(self, statement: str) -> None:
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()


def _user() -> str | None:
    """PostgreSQL refuses to run as root."""
    return "postgres" if os.geteuid() == 0 else None


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A running one, gone at the end."""
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # short: a socket's path has 107 bytes
    if user:
        shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)
    made = Cluster(folder)
    try:
        made.run("initdb", "-D", f"{folder}/data", "-U", "postgres", "--auth=trust", "--no-sync")
        made.start()
        yield made
        made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
