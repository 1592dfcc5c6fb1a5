"""Two query models while a swap is prepared: each question to the one that it is about, the old one ended after it."""

from pathlib import Path

import numpy as np

from dicomnode.settings import IngestSettings, LogSettings
from dicomnode.workers.embedding import RoiEmbedding, RoiRequest
from dicomnode.workers.roi import Ready, RoiProcess, RoiSettings

OLD, NEW = Path("models/old"), Path("models/new")


class Pretended:
    """A child that answers at once, and remembers what it was asked."""

    def __init__(self, _module: str, settings: RoiSettings) -> None:
        self.loaded = settings.warm
        self.asked: list[object] = []
        self.alive = True
        self.pid = 1
        self.connection = self

    def send(self, request: object) -> None:
        self.asked.append(request)

    def poll(self, _timeout_s: float) -> bool:
        return True

    def recv(self) -> object:
        latest = self.asked[-1]
        return latest if isinstance(latest, Ready) else RoiEmbedding({}, np.zeros((1, 1), np.float32))

    def end(self) -> None:
        self.alive = False

    kill = end


def test_each_question_goes_to_the_child_that_has_its_model() -> None:
    children: list[Pretended] = []

    def start(*given: object) -> Pretended:
        children.append(Pretended(*given))
        return children[-1]

    process = RoiProcess(RoiSettings(1, IngestSettings(), LogSettings(), OLD), 1.0, start)
    about_old, about_new = (RoiRequest(folder, Path("film"), 1, ((0, 0, 9, 9),)) for folder in (OLD, NEW))
    process.embed(about_old)
    process.prepare(OLD)  # has it already
    assert len(children) == 1
    process.prepare(NEW)
    process.prepare(NEW)
    old, new = children
    assert (old.loaded, new.loaded, new.asked) == (OLD, NEW, [Ready()])
    process.embed(about_old)
    process.embed(about_new)
    assert (old.asked, new.asked) == ([about_old, about_old], [Ready(), about_new])
    process.settle(OLD)  # nothing was swapped yet
    assert old.alive
    process.settle(NEW)
    assert (old.alive, new.alive, process.alive) == (False, True, True)
    process.embed(about_old)  # rolled back, say: the one child loads what it is asked for
    assert new.asked[-1] == about_old
    process.stop()
    assert not new.alive
    assert len(children) == 2
