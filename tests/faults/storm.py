"""A seed in, rounds of kill -9 under load out, each followed by a restart and the oracle's look.

A round: a node starts, the oracle looks at what the last round left, honest senders, queries, a reindexing, a deletion
and a question are let loose, processes are killed at random times or at a named point, and at last the node itself is.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pydicom import dcmread

from dicomnode.dimse import client
from dicomnode.errors import DicomNodeError, PeerError
from encoder.boxes import Box
from tests import nodes
from tests.faults import oracle, senders
from tests.faults.oracle import Place
from tests.faults.points import POINTS, Fault
from tests.faults.quick import SHARES
from tests.faults.senders import Ledger, Made
from tests.integration import asking
from tests.nodes import RunningNode

PROGRAM = "tests.faults.mortal"
CANARIES = 2
FIRST_CANARY = 600_001  # instances of no storm, of studies of their own
STUDIES_KEPT = 8  # acknowledged ones; older are deleted while the storm goes on
OF_A_ROUND = (3, 4)  # associations, and instances on each
CHILD_KILLS = 3  # of each kind, at most
LASTS_S = (0.3, 3.5)  # until the node itself is killed
POINT_S = 8.0  # until a named point is given up: not every round passes every one
GONE_S = 60.0
CHILDREN = {"worker": "dicomnode.workers.indexer", "query model": "dicomnode.workers.roi"}
ENVIRONMENT = {
    "DICOMNODE_QUERY__ENCODE_TIMEOUT_S": "20",
    "DICOMNODE_INGEST__MAXIMUM_ATTEMPTS": "50",  # the storm kills workers at will, and no film is to blame
    "DICOMNODE_DIMSE__MAXIMUM_PER_ADDRESS": "64",
}
SHARE = {"reindex": 0.3, "delete": 0.5, "question": 0.2, "point": 0.6, "child": 0.6, "all": 0.4, "stop": 0.2}
# What a point needs to be passed; others are passed by what every round does.
NEEDS = {
    "generation started": "reindex",
    "old generation retired, none live": "reindex",
    "swapped": "reindex",
    "old generation half deleted": "reindex",
    "rows deleted, not committed": "delete",
    "rows deleted, files there": "delete",
    "question claimed": "question",
    "answer found, not kept": "question",
    "answer kept, no object": "question",
    "objects stored, question open": "question",
}
OTHERS = {"a migration's statement run", "migrated, not committed"}  # have a test of their own
STORMY = sorted(set(POINTS) - OTHERS)


@dataclass
class Report:
    """What the storm did and what was found."""

    kills: Counter[str] = field(default_factory=Counter)  # by what was killed, or at which point
    rounds: int = 0
    acknowledged: int = 0
    answers: int = 0  # to questions asked under fire
    wrong: list[str] = field(default_factory=list)

    @property
    def killed(self) -> int:
        return self.kills.total()

    def text(self) -> str:
        """The report as lines."""
        rows = [f"{count:5} {what}" for what, count in self.kills.most_common()]
        lost = sum("LOST" in each for each in self.wrong)
        rows.append(
            f"{self.killed} kills in {self.rounds} rounds, {self.acknowledged} instances acknowledged, {lost} lost, "
            f"{self.answers} answers under fire, {len(self.wrong)} violations"
        )
        return "\n".join([*rows, *self.wrong])


class Storm:
    """Rounds on one archive. `folder` holds what is sent; the archive is at `place`."""

    def __init__(self, place: Place, folder: Path, seed: int) -> None:
        self._place = place
        self._folder = folder
        self._chance = random.Random(seed)
        self._ledger = Ledger()
        self._number = self._study = self._tokens = 0
        self._canaries = [senders.make(folder, FIRST_CANARY + n, FIRST_CANARY + n) for n in range(CANARIES)]
        self._left = list(STORMY)
        self._chance.shuffle(self._left)
        self.report = Report()

    def run(self, kills: int, tell: Callable[[Report], None] = lambda report: None) -> Report:
        """Rounds until so many processes were killed, then a last look."""
        while self.report.killed < kills and not self.report.wrong:
            self._round()
            tell(self.report)
        with self._node(None) as node:
            self._look(node)
        return self.report

    # --- a round ---------------------------------------------------------------------------------------------------

    def _round(self) -> None:
        chosen = self._chance
        fault = self._fault() if chosen.random() < SHARE["point"] else None
        need = NEEDS.get(fault.point, "") if fault else ""
        self.report.rounds += 1
        with self._node(fault) as node:
            children = psutil.Process(node.process.pid).children(recursive=True) if _alive(node) else []
            if _alive(node):
                self._look(node, unless=fault)
            if _alive(node):
                self._under_fire(node, fault, need)
            children += _children(node)
            self._end(node, fault)
        self._all_gone(children)

    def _look(self, node: RunningNode, unless: Fault | None = None) -> None:
        """The oracle's look at what the round before left; a node that dies meanwhile is looked at later."""
        if any(canary.uid not in self._ledger.kept for canary in self._canaries):
            senders.by_our_client(node, self._canaries, self._ledger)
        found = oracle.settle(self._place, node)
        try:
            found = found or list(oracle.violations(self._place, self._ledger, node, self._canaries))
        except (DicomNodeError, AssertionError) as error:
            found = [f"the oracle could not ask: {error}"]
        died = unless is not None and unless.happened
        self.report.wrong += [] if died else found

    def _under_fire(self, node: RunningNode, fault: Fault | None, need: str) -> None:
        chosen = self._chance
        wanted = {what for what in ("reindex", "delete", "question") if need == what or chosen.random() < SHARE[what]}
        over = threading.Event()
        threads = senders.together(node, self._made(*OF_A_ROUND), self._ledger)
        threads.append(threading.Thread(target=self._ask, args=(node, over), daemon=True))
        threads[-1].start()
        with ExitStack() as others:
            if "question" in wanted:
                self._question(node)
            if "reindex" in wanted:
                others.enter_context(self._command(fault, "reindex", "--workers", "1"))
            if "delete" in wanted:
                self._delete_oldest(others, fault)
            self._kill_children(node)
            self._wait(node, fault)
            self._kill(node, fault)
            over.set()
        for thread in threads:
            thread.join(150)
        self.report.acknowledged = self._ledger.count

    def _wait(self, node: RunningNode, fault: Fault | None) -> None:
        """Until the fault has happened, or the time has come."""
        deadline = time.monotonic() + (POINT_S if fault else self._chance.uniform(*LASTS_S))
        while time.monotonic() < deadline and _alive(node) and not (fault and fault.happened):
            time.sleep(0.02)
        if fault and fault.happened:
            self.report.kills[f"at: {fault.point}"] += 1

    def _kill(self, node: RunningNode, fault: Fault | None) -> None:
        if not _alive(node):
            return
        chosen = self._chance
        if chosen.random() < SHARE["stop"]:
            node.process.send_signal(signal.SIGTERM)
            time.sleep(chosen.uniform(0.0, 1.5))
        if node.process.poll() is not None:
            return  # it had stopped in order before the kill
        if chosen.random() < SHARE["all"]:
            self.report.kills["the whole tree"] += 1
            with suppress(ProcessLookupError):
                node.kill_tree()
        else:
            self.report.kills["receiver, queries and web"] += 1
            node.process.kill()
            node.process.wait()

    def _kill_children(self, node: RunningNode) -> None:
        """Some of the children, at random times; one that was killed is replaced within seconds."""
        for name, module in list(CHILDREN.items()) * CHILD_KILLS:
            if self._chance.random() < SHARE["child"]:
                time.sleep(self._chance.uniform(0, 0.4))
                there = [child for child in _children(node) if module in _words(child) and child.is_running()]
                for child in there[:1]:
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
                        self.report.kills[name] += 1

    def _end(self, node: RunningNode, fault: Fault | None) -> None:
        """Whatever is left of its group; a fault may have killed the node before anything could."""
        if _alive(node):
            self.report.kills["receiver, queries and web"] += 1
            node.process.kill()
            node.process.wait()

    def _all_gone(self, children: list[psutil.Process]) -> None:
        _, alive = psutil.wait_procs(children, timeout=GONE_S)
        self.report.wrong += [f"a child outlives its node: {_words(child)}" for child in alive]

    # --- what is going on ------------------------------------------------------------------------------------------

    def _made(self, batches: int, size: int) -> list[list[Made]]:
        made = []
        for _ in range(batches):
            self._study += 1
            batch = [senders.make(self._folder, self._number + n, self._study) for n in range(size)]
            self._number += size
            made.append(batch)
        return made

    def _ask(self, node: RunningNode, over: threading.Event) -> None:
        """Queries while it storms: no answer is right, an error too; a wrong answer is not."""
        x1, y1, x2, y2 = (share * senders.SIDE for share in SHARES[oracle.HEART.index])
        while not over.is_set():
            for canary in self._canaries:
                with suppress(PeerError, DicomNodeError, OSError):
                    hits = oracle.asked(node, canary.uid, Box(x1, y1, x2, y2), 3)
                    self.report.answers += 1
                    if not hits or hits[0][1] != canary.uid:
                        self.report.wrong.append(f"under fire a canary found {hits[:2]}")
            over.wait(0.05)

    def _question(self, node: RunningNode) -> None:
        """An SR that asks, stored to the query AE title; owed an answer once it is acknowledged."""
        image = dcmread(self._chance.choice(self._canaries).path)
        x1, y1, x2, y2 = (share * senders.SIDE for share in SHARES[oracle.HEART.index])
        path = asking.saved(asking.question(image, Box(x1, y1, x2, y2)), self._folder)
        peer = client.Peer("127.0.0.1", node.port, called="REGIONMIR")
        with suppress(PeerError):
            list(client.send(peer, [path]))

    def _delete_oldest(self, others: ExitStack, fault: Fault | None) -> None:
        studies = list(dict.fromkeys(made.study for made in self._ledger.kept.values()))
        spared = {canary.study for canary in self._canaries}
        old = [study for study in studies if study not in spared][:-STUDIES_KEPT]
        for study in old[:2]:
            self._ledger.forget(study)
            others.enter_context(self._command(fault, "delete", "--yes", "--study", study))

    @contextmanager
    def _command(self, fault: Fault | None, *words: str) -> Iterator[None]:
        """A command of the program beside the node, killed at the end unless it has ended."""
        command = [sys.executable, "-m", PROGRAM, *words, "--root", str(self._place.root), "--json"]
        with (self._folder / "commands.log").open("a") as log:
            process = subprocess.Popen(
                command,
                env=os.environ | self._environment(fault),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield
            with suppress(subprocess.TimeoutExpired):
                process.wait(self._chance.uniform(0, 6))
        finally:
            if process.poll() is None:
                self.report.kills[words[0]] += 1
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    # --- processes -------------------------------------------------------------------------------------------------

    def _fault(self) -> Fault:
        """Every point in turn, in an order that the seed chose."""
        point = self._left.pop()
        if not self._left:
            self._left = list(STORMY)
            self._chance.shuffle(self._left)
        self._tokens += 1
        who = "all" if self._chance.random() < SHARE["all"] else "self"
        skip = 0 if point in NEEDS else self._chance.randrange(12)
        return Fault(point, skip, who, self._folder / f"token-{self._tokens}")

    def _environment(self, fault: Fault | None) -> dict[str, str]:
        url = {"DICOMNODE_STORAGE__URL": self._place.url} if self._place.url else {}
        return ENVIRONMENT | url | (fault.environment if fault else {})

    @contextmanager
    def _node(self, fault: Fault | None) -> Iterator[RunningNode]:
        """A node; of one that dies of its fault before it is ready, one that is started again."""
        with ExitStack() as stack:
            try:
                node = stack.enter_context(self._started(fault))
            except AssertionError:
                if fault is None or not fault.happened:
                    raise
                self.report.kills[f"at: {fault.point}"] += 1
                node = stack.enter_context(self._started(None))
            yield node

    def _started(self, fault: Fault | None):  # type: ignore[no-untyped-def]
        arguments = ("--http-port", "0", "--workers", "2")
        environment = self._environment(fault)
        return nodes.running_node(self._place.root, *arguments, environment=environment, module=PROGRAM)


def _alive(node: RunningNode) -> bool:
    return node.process.poll() is None


def _children(node: RunningNode) -> list[psutil.Process]:
    try:
        return psutil.Process(node.process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
