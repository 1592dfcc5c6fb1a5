"""A running node in, what an attack did to it out: memory, threads, what an honest peer still got, what was left."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import psutil

from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.dimse import client
from tests.nodes import RunningNode
from tests.raw import wait_until

HONEST_S = 5.0  # an echo and a small C-STORE of somebody else, while it lasts: alive, not fast
SAMPLE_S = 0.02
MIB = 1 << 20


@dataclass
class Watch:
    """Measures a node from entry to exit; at the exit everything must be as before."""

    node: RunningNode
    folder: Path  # for the honest peer's films
    memory_mib: float = 64.0  # what the receiver may grow by at any moment
    threads: int = 16  # and how many threads more it may have
    honest_s: list[float] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._process = psutil.Process(self.node.process.pid)
        self._before = self._now()
        self._peak = self._before
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.honest()
        self._over.set()
        self._sampler.join()
        if kind is None:
            self._check()

    @property
    def grown_mib(self) -> float:
        return (self._peak[0] - self._before[0]) / MIB

    @property
    def more_threads(self) -> int:
        return self._peak[1] - self._before[1]

    def honest(self) -> None:
        """Somebody else's C-ECHO and C-STORE, now; both must succeed in time."""
        path = honest_film(self.folder)
        started = time.monotonic()
        assert client.echo(self.node.peer) == 0
        (sent,) = client.send(self.node.peer, [path])
        self.honest_s.append(time.monotonic() - started)
        assert sent.ok, sent
        assert self.honest_s[-1] < HONEST_S

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_S):
            now = self._now()
            self._peak = (max(self._peak[0], now[0]), max(self._peak[1], now[1]))

    def _now(self) -> tuple[int, int]:
        """Resident bytes of the receiver, and its threads."""
        return self._process.memory_info().rss, self._process.num_threads()

    def _check(self) -> None:
        assert self.node.process.poll() is None
        assert self.grown_mib < self.memory_mib, f"{self.grown_mib:.0f} MiB more"
        assert self.more_threads <= self.threads, f"{self.more_threads} threads more"
        assert wait_until(lambda: scratch_of(self.node) == []), scratch_of(self.node)
        assert "Traceback" not in log_of(self.node)


def honest_film(folder: Path) -> Path:
    """A small film with a UID of its own."""
    number = len(list(folder.iterdir()))
    facts = FilmFacts("P1", "Test^Film", "F", "19500101", "20240102", seed=f"honest {folder} {number}")
    path = folder / f"{number}.dcm"
    dx_dataset(np.full((64, 64), 100, np.uint16), facts).save_as(path, enforce_file_format=True)
    return path


def scratch_of(node: RunningNode) -> list[Path]:
    """What is arriving, or was left over."""
    return list((node.root / "scratch").iterdir())


def log_of(node: RunningNode) -> str:
    """Everything the node and its workers have written to standard error."""
    return (node.root.parent / f"{node.root.name}.log").read_text()
