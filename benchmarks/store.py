"""C-STORE over the wire: objects a second, processor time and memory of this node and other receivers in one run.

The sender is DCMTK's storescu for all, one process an association, Nagle's algorithm off on both sides, every object
under a SOP Instance UID of its own. Receivers take turns; what the one before left unwritten is on disk before the
next begins. What arrived is counted in the receiver's folder: an acknowledged object that is not there is said.
"""

import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from benchmarks import objects, peers, timing
from benchmarks.peers import Archive, Start
from benchmarks.tables import Table
from benchmarks.wire import CALLING, MAXIMUM_PDU
from dicomnode.demo.dx import FilmFacts, dx_dataset

OURS = "dicomnode"
DX_SIDE = (2500, 2400)  # rows and columns of 16 bit: 12 MB
MIB = 1 << 20
NOWHERE = 9  # the discard port: nothing is moved here
SAMPLE_S = 0.02
SENDER_S = 300.0
HEADS = 64 << 10  # bytes by which a receiver's file may differ from the one that was sent


@dataclass(frozen=True)
class Measure:
    """So many associations at once, each sending every file so many times."""

    name: str
    kind: str  # folder of the files
    associations: int
    repeat: int

    def count(self, files: int) -> int:
        """Objects in all."""
        return files * self.repeat * self.associations


MEASURES = (
    Measure("CT of 0.5 MB, 1 association", "ct", 1, 24),
    Measure("CT of 0.5 MB, 4 associations", "ct", 4, 8),
    Measure("CT of 0.5 MB, 8 associations", "ct", 8, 6),
    Measure("DX of 12 MB, 1 association", "dx", 1, 6),
    Measure("DX of 12 MB, 4 associations", "dx", 4, 3),
)
AT_ONCE = Measure("memory, 8 associations of DX, MiB", "dx", 8, 2)
FILES = {"ct": 10, "dx": 2}


@contextmanager
def node(folder: Path, sink: int) -> Iterator[Archive]:
    """This node on an archive that exists: what makes a new one's tables is in memory for that once."""
    with peers.dicomnode(folder, sink):
        pass
    with peers.dicomnode(folder, sink) as archive:
        yield archive


@contextmanager
def node_of_two(folder: Path, sink: int) -> Iterator[Archive]:
    """The same, with a second process that receives."""
    with node(folder, sink):
        pass
    with peers.dicomnode(folder, sink, receivers=2) as archive:
        yield archive


@contextmanager
def bare(folder: Path, sink: int) -> Iterator[Archive]:
    """This node's way from the wire to a synced file, without header, digest and catalogue: see `benchmarks.bare`."""
    folder.mkdir()
    command = (peers.PYTHON, "-m", "benchmarks.bare", str(folder))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Archive(int(process.stdout.readline()), "DICOMNODE", "DICOMNODE")
    finally:
        process.terminate()
        process.wait()


@contextmanager
def storescp(folder: Path, sink: int) -> Iterator[Archive]:
    """DCMTK's receiver: a process an association, data sets written as they come, nothing synced or catalogued."""
    folder.mkdir()
    port = peers.free_port()
    command = ("--fork", "+B", "-pdu", MAXIMUM_PDU, "-od", folder, port)
    with peers.running(port, folder, peers.installed("storescp"), *command):
        yield Archive(port, "STORESCP", "STORESCP")


@contextmanager
def pynetdicom_storescp(folder: Path, sink: int) -> Iterator[Archive]:
    """The receiver among pynetdicom's applications; it has no switch for Nagle's algorithm and syncs nothing."""
    folder.mkdir()
    port = peers.free_port()
    command = ("-q", "--max-pdu", MAXIMUM_PDU, "-od", folder, port)
    with peers.running(port, folder, peers.PYTHON, "-m", "pynetdicom", "storescp", *command):
        yield Archive(port, "STORESCP", "STORESCP")


RECEIVERS: dict[str, Start] = {
    OURS: node,
    f"{OURS}, receivers = 2": node_of_two,
    "its lane alone": bare,
    "Orthanc": peers.orthanc,
    "storescp, unsynced": storescp,
    "dcmqrscp, unsynced": peers.dcmqrscp,
    "pynetdicom, unsynced": pynetdicom_storescp,
}
FORKING = {"storescp, unsynced", "dcmqrscp, unsynced"}  # their memory is that of a process and its children


@dataclass(frozen=True)
class Receiver:
    """A running receiver and the folder in which it keeps what it takes."""

    archive: Archive
    folder: Path
    process: psutil.Process  # that listens
    forks: bool


@dataclass
class Row:
    """One measure: values of each receiver, and what there is to say of one."""

    measure: Measure
    values: dict[str, list[float]]
    remarks: dict[str, str]
    processor_ms: dict[str, list[float]] = field(default_factory=dict)  # of the receiver, for each object


def run(repeat: int, *, quick: bool = False) -> Table:
    """The whole: medians with their range, and this node against each."""
    with tempfile.TemporaryDirectory(prefix="bench-store-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        files = {"ct": objects.slices(folder / "ct", FILES["ct"]), "dx": films(folder / "dx", FILES["dx"])}
        receivers, missing = _started(stack, folder)
        measures = [_shortened(measure) for measure in MEASURES] if quick else list(MEASURES)
        rows = [_measured(measure, files[measure.kind], receivers, missing, repeat) for measure in measures]
        memory = _memory(files[AT_ONCE.kind], receivers, missing)
    return _table(rows, memory, files, repeat)


def films(folder: Path, count: int) -> list[Path]:
    """DX of 12 MB: noise, as nothing here looks at pixels."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 4096, DX_SIDE, np.uint16)
    paths = []
    for number in range(count):
        facts = FilmFacts("BENCHDX", "Bench^DX", "O", "19700101", "20240102", seed=f"bench {number}")
        paths.append(folder / f"{number:05d}.dcm")
        dx_dataset(noise, facts).save_as(paths[-1], enforce_file_format=True)
    return paths


def _shortened(measure: Measure) -> Measure:
    return Measure(measure.name, measure.kind, measure.associations, max(1, measure.repeat // 3))


def _started(stack: ExitStack, folder: Path) -> tuple[dict[str, Receiver], dict[str, str]]:
    running, missing = {}, {}
    for number, (name, start) in enumerate(RECEIVERS.items()):
        own = folder / f"receiver-{number}"
        try:
            peers.installed("storescu")
            archive = stack.enter_context(start(own, NOWHERE))
            running[name] = Receiver(archive, own, _listening(archive.port), name in FORKING)
        except peers.NotInstalled as error:
            missing[name] = str(error)
    return running, missing


def _measured(
    measure: Measure, files: list[Path], receivers: Mapping[str, Receiver], missing: dict[str, str], repeat: int
) -> Row:
    """Objects a second, in turn; one round more than counted warms up. Who lost some or broke off is told of."""
    row = Row(measure, {name: [] for name in receivers}, dict(missing), {name: [] for name in receivers})
    count = measure.count(len(files))
    size = files[0].stat().st_size
    before = {name: kept(receiver.folder, size) for name, receiver in receivers.items()}
    for number in range(repeat + 1):
        for name, receiver in receivers.items():
            os.sync()
            before_s = _processor_s(receiver)
            try:
                rate = count / timing.seconds(partial(send, receiver.archive, files, measure))
            except subprocess.CalledProcessError:
                row.remarks[name] = "refused some or broke off"
                continue
            if number:
                row.values[name].append(rate)
                row.processor_ms[name].append((_processor_s(receiver) - before_s) / count * 1000)
    sent = count * (repeat + 1)
    for name, receiver in receivers.items():
        came = kept(receiver.folder, size) - before[name]
        if came < sent and name not in row.remarks:
            row.remarks[name] = f"{sent - came} of {sent} lost"
    return row


def send(archive: Archive, files: list[Path], measure: Measure) -> None:
    """storescu, so many at once. CalledProcessError when one was refused or broke off."""
    command = [
        peers.installed("storescu"),
        "-aet",
        CALLING,
        "-aec",
        archive.called,
        "--max-send-pdu",
        str(MAXIMUM_PDU),
        "+II",
    ]
    command += ["--repeat", str(measure.repeat), "127.0.0.1", str(archive.port), *map(str, files)]
    environment = os.environ | {"TCP_NODELAY": "1"}
    senders = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(measure.associations)
    ]
    for sender in senders:  # the end of its output is its end: `wait` would look every 50 ms only
        sender.communicate(timeout=SENDER_S)
    codes = [sender.returncode for sender in senders]
    if any(codes):
        raise subprocess.CalledProcessError(max(codes), command)


def kept(folder: Path, size: int) -> int:
    """How many objects of about that size (bytes) a receiver has, by the files in its folder."""
    return sum(abs(entry.stat().st_size - size) < HEADS for entry in folder.rglob("*") if entry.is_file())


def _listening(port: int) -> psutil.Process:
    """The process that has the port, before it forks."""
    listening = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    return psutil.Process(next(each.pid for each in listening if each.laddr[1] == port))


def _processor_s(receiver: Receiver) -> float:
    """Processor time of the process that listens, and of its children that have ended: they received."""
    times = receiver.process.cpu_times()
    own = float(times.user + times.system)
    return own + float(times.children_user + times.children_system) if receiver.forks else own


def _memory(files: list[Path], receivers: Mapping[str, Receiver], missing: dict[str, str]) -> Row:
    """MiB of each at rest and at most, while eight associations send; not timed."""
    row = Row(AT_ONCE, {}, dict(missing))
    for name, receiver in receivers.items():
        at_rest = _pss_mib(receiver)
        most = [at_rest]
        with suppress(subprocess.CalledProcessError):
            _sampled(partial(send, receiver.archive, files, AT_ONCE), lambda r=receiver, m=most: m.append(_pss_mib(r)))
        row.values[name] = [at_rest, max(most)]
    return row


def _sampled(work: Callable[[], None], sample: Callable[[], None]) -> None:
    """Run `work`, and `sample` again and again beside it."""
    done = threading.Event()

    def keep_sampling() -> None:
        while not done.wait(SAMPLE_S):
            sample()

    sampler = threading.Thread(target=keep_sampling)
    sampler.start()
    try:
        work()
    finally:
        done.set()
        sampler.join()


def _pss_mib(receiver: Receiver) -> float:
    """Proportional set size of the process that listens, and of its children where they receive."""
    first = receiver.process
    return sum(_pss(each) for each in (first, *(first.children(recursive=True) if receiver.forks else ()))) / MIB


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:  # a child that has ended meanwhile
        return 0


def _table(rows: list[Row], memory: Row, files: Mapping[str, list[Path]], repeat: int) -> Table:
    cells = [(row.measure.name, *(_rate(row, name) for name in RECEIVERS)) for row in rows]
    cells += [(f"{row.measure.name}, processor, ms", *(_processor(row, name) for name in RECEIVERS)) for row in rows]
    cells.append((memory.measure.name, *(_size(memory, name) for name in RECEIVERS)))
    counts = ", ".join(str(row.measure.count(len(files[row.measure.kind]))) for row in rows)
    return Table(
        ("objects/s", *RECEIVERS),
        tuple(cells),
        (
            "Medians (least - most); x: how many times as fast this node is.",
            f"storescu, a process an association, with its start; {counts} objects a round; {repeat} rounds in turn.",
            "TCP_NODELAY=1 for all; PDUs of 128 KiB. This node syncs file, folder and database before it answers, "
            "Orthanc the file, the others nothing. Its lane alone: file and folder synced, nothing read or catalogued.",
            "Processor: time of the receiver for an object. Memory: PSS at rest -> at most. Of this node both are "
            "those of the process that listens; with two that receive the other one's are not in them.",
        ),
        {
            row.measure.name: {"values": row.values, "remarks": row.remarks, "processor_ms": row.processor_ms}
            for row in (*rows, memory)
        },
    )


def _rate(row: Row, name: str) -> str:
    if not row.values.get(name):
        return row.remarks.get(name, "")
    told = timing.spread(row.values[name], digits=0)
    if name != OURS:
        told += f", {median(row.values[OURS]) / median(row.values[name]):.2f} x"
    return told + (f"; {row.remarks[name]}" if name in row.remarks else "")


def _processor(row: Row, name: str) -> str:
    return timing.spread(row.processor_ms[name]) if row.processor_ms.get(name) else ""


def _size(row: Row, name: str) -> str:
    if name not in row.values:
        return row.remarks.get(name, "")
    at_rest, most = row.values[name]
    return f"{at_rest:.0f} -> {most:.0f}"
