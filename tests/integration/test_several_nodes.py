"""Several nodes and crews of workers on one PostgreSQL database and one root: killed at random, nothing is lost."""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from dicomnode.dimse import client
from dicomnode.dimse.client import Peer
from dicomnode.errors import PeerError
from encoder.anatomy import VOCABULARY
from storage.store import Store
from tests import nodes
from tests.integration import asking
from tests.raw import wait_until
from tests.unit.encoder import small

pytestmark = [pytest.mark.postgresql, pytest.mark.own_database, pytest.mark.timeout(600)]
FILMS, KILLS, SEED = 24, 4, 6
MEMBERS = {"north": "serve", "south": "serve", "red": "work", "blue": "work"}


@dataclass
class Member:
    """One of the programs that share the archive, started again whenever it was killed."""

    name: str
    command: str
    root: Path
    environment: dict[str, str]
    port: int = 0  # of a node that runs
    process: "subprocess.Popen[str] | None" = None
    _running: ExitStack = field(default_factory=ExitStack)

    def start(self) -> None:
        ports = (
            ("--host", "127.0.0.1", "--port", "0", "--workers", "0") if self.command == "serve" else ("--workers", "1")
        )
        told = self.environment | {"DICOMNODE_STORAGE__NODE": self.name}
        running = nodes.started(self.command, self.root, *ports, environment=told)
        self.process, ready = self._running.enter_context(running)
        self.port = ready.get("port", 0)

    def end(self, how: signal.Signals) -> None:
        """The parent alone, or the whole tree at once."""
        assert self.process is not None
        self.port = 0
        if how == signal.SIGKILL:
            os.killpg(self.process.pid, how)
        else:
            self.process.send_signal(how)
        self.process.wait(nodes.STOP_S)
        self.stop()

    def stop(self) -> None:
        self._running.close()


@dataclass
class Sender:
    """Sends every film until some node has acknowledged it; looks for another where one is gone."""

    members: list[Member]
    films: list[Path]
    rng: random.Random
    acknowledged: list[Path] = field(default_factory=list)
    given_up: Event = field(default_factory=Event)

    def run(self) -> None:
        for path in self.films:
            while not self.given_up.is_set() and not self._sent(path):
                time.sleep(0.1)

    def _sent(self, path: Path) -> bool:
        ports = [member.port for member in self.members if member.port]
        if not ports:
            return False
        with suppress(PeerError, OSError):
            for sent in client.send(Peer("127.0.0.1", self.rng.choice(ports)), [path]):
                if sent.ok:
                    self.acknowledged.append(path)
                    return True
        return False


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    """SOP Instance UIDs by file."""
    folder, made = tmp_path_factory.mktemp("films"), {}
    for number in range(FILMS):
        dataset = asking.film(number)
        path = folder / f"{number:03}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        made[path] = str(dataset.SOPInstanceUID)
    return made


@pytest.fixture
def environment(postgresql: str, tmp_path: Path) -> dict[str, str]:
    return {
        "DICOMNODE_STORAGE__URL": postgresql,
        "DICOMNODE_STORAGE__SHARED": "true",
        "DICOMNODE_MODELS__FOLDER": str(small.write(tmp_path / "small")),
        "DICOMNODE_INGEST__LEASE_S": "30",
    }


@pytest.fixture
def members(environment: dict[str, str], tmp_path: Path) -> Iterator[dict[str, Member]]:
    (tmp_path / "root").mkdir()
    made = {name: Member(name, command, tmp_path / "root", environment) for name, command in MEMBERS.items()}
    at_once = [Thread(target=member.start) for member in made.values()]  # on a new archive, as a cluster comes up
    for thread in at_once:
        thread.start()
    for thread in at_once:
        thread.join()
    yield made
    for member in made.values():
        member.stop()


def _answer(member: Member, uid: str, anatomy: int) -> Any:
    asked = ("--image", uid, "--box", "90,100,180,200", "--anatomy", VOCABULARY.names[anatomy], "--k", "5")
    return nodes.answered("query", f"127.0.0.1:{member.port}", *asked)["hits"]


def test_killed_at_random_they_lose_nothing(
    members: dict[str, Member], films: dict[Path, str], postgresql: str, tmp_path: Path
) -> None:
    assert all(member.process for member in members.values())
    rng, root = random.Random(SEED), tmp_path / "root"
    senders = [Sender(list(members.values()), sorted(films)[part::2], random.Random(part)) for part in range(2)]
    threads = [Thread(target=sender.run) for sender in senders]
    for thread in threads:
        thread.start()
    try:
        for name in rng.sample(sorted(members), KILLS):  # each once, in an order of its own
            time.sleep(rng.uniform(0.2, 1.5))
            members[name].end(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
            members[name].start()
        for thread in threads:
            thread.join(300)
    finally:
        for sender in senders:
            sender.given_up.set()
    assert sorted(path for sender in senders for path in sender.acknowledged) == sorted(films)

    with Store.open(root, postgresql) as store:
        live = store.generations.live()
        assert live is not None
        wait_until(lambda: store.jobs.counts(live.id).queued == 0, 300)
        counts = store.jobs.counts(live.id)
        assert (counts.instances, counts.indexed, counts.failed) == (FILMS, FILMS, 0)
        for uid in films.values():
            instance = store.catalog.instance(uid)
            assert instance is not None
            assert (root / instance.path).is_file()  # and its bytes: `check` below
            assert store.regions.of_instance(live.id, instance.id)
        first = next(iter(films.values()))
        ((anatomy, _), *_) = Counter(region.anatomy for region in store.regions.first(live.id, 1000)).most_common(1)
        answers = [_answer(members[name], first, anatomy) for name in ("north", "south")]
        assert answers[0] == answers[1]
        assert len(answers[0]) == 5
        for member in members.values():
            member.end(signal.SIGTERM)
        store.sweep(age_s=0.0)  # what was killed left scratch files, and files without a row; nothing else
        assert store.check() == []
        assert list((root / "scratch").iterdir()) == []


def test_each_has_a_name_of_its_own(
    environment: dict[str, str], tmp_path: Path, films: dict[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody joins who does not share."""
    north = Member("north", "serve", tmp_path / "root", environment)
    (tmp_path / "root").mkdir()
    north.start()
    try:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        again = ("serve", "--root", tmp_path / "root", "--port", "0", "--workers", "0")
        monkeypatch.setenv("DICOMNODE_STORAGE__NODE", "north")
        same = nodes.dicomnode(*again, check=False)
        assert (same.returncode, "a node of the name north is running already" in same.stderr) == (1, True)
        monkeypatch.setenv("DICOMNODE_STORAGE__SHARED", "false")
        alone = nodes.dicomnode(*again, check=False)
        assert (alone.returncode, "a node is running already" in alone.stderr) == (1, True)
        monkeypatch.delenv("DICOMNODE_STORAGE__URL")
        monkeypatch.setenv("DICOMNODE_STORAGE__SHARED", "true")
        on_sqlite = nodes.dicomnode(*again, check=False)
        assert (on_sqlite.returncode, "needs storage.url" in on_sqlite.stderr) == (2, True)
    finally:
        north.stop()


def test_what_others_are_receiving_is_not_swept(environment: dict[str, str], postgresql: str, tmp_path: Path) -> None:
    """A node that joins leaves alone what has no row yet, while it may get one."""
    root = tmp_path / "root"
    with Store.open(root, postgresql) as store, store.files.scratch() as open_scratch, store.files.scratch() as kept:
        open_scratch.write(b"arriving at another machine")
        kept.write(b"just renamed by another machine")
        file = store.files.keep(kept, "1.2.3")
        closed = root / "scratch" / "of-a-machine-whose-locks-are-not-seen"
        closed.write_bytes(b"arriving")
        with ExitStack() as running:
            running.enter_context(
                nodes.started("serve", root, "--port", "0", "--workers", "0", environment=environment)
            )
            assert open_scratch.path.exists()
            assert closed.exists()
            assert store.files.has(file.path)
        assert store.sweep(age_s=0.0) == 2
