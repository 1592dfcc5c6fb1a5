"""C-FIND and retrieval over the wire: this node, Orthanc, dcmqrscp and pynetdicom's qrscp in one run.

The same objects in each archive, the same raw client and the same sink for all (`wire`), rounds in turn. An association
is open before its measure begins; what is timed is a request until its final response.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode

from benchmarks import objects, peers, timing, wire
from benchmarks.peers import Archive
from benchmarks.tables import Table
from benchmarks.wire import Association, Context, PeerFailed

OURS = "dicomnode"
STUDY_KEYS = ("StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "PatientName", "PatientID", "StudyID")
IMAGE_KEYS = ("SOPInstanceUID", "InstanceNumber")
STORE = Context(wire.CT, wire.EXPLICIT)
FIND, MOVE, GET = (Context(each, wire.IMPLICIT) for each in (wire.STUDY_FIND, wire.STUDY_MOVE, wire.STUDY_GET))


@dataclass(frozen=True)
class Measure:
    """One request: `run` returns how many answers or objects came. `rounds`: of it for each round of the benchmark."""

    name: str
    contexts: tuple[Context, ...]
    run: Callable[[Association], int]
    expected: int
    per_second: bool = False  # told as objects a second; otherwise as milliseconds
    rounds: int = 1
    of_studies: bool = False  # asked of where the many studies are kept

    def told(self, values: Sequence[float]) -> str:
        if self.per_second:
            return timing.spread([self.expected / value for value in values], digits=0)
        return timing.spread(list(values), 1000)


def run(repeat: int, *, quick: bool = False) -> Table:
    """The whole: archives filled, each measure in turn, medians with their range, and the node against each."""
    count = 20 if quick else 200
    with tempfile.TemporaryDirectory(prefix="bench-dimse-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        sink = stack.enter_context(_sink())
        files = _files(folder / "objects", count)
        archives, failed = _started(stack, folder, sink.port)
        failed |= _filled(archives, files)
        running = {name: archive for name, archive in archives.items() if name not in failed}
        rows = [_measured(measure, running, failed, repeat) for measure in _measures(count, sink)]
    return _table(rows, count, repeat)


@contextmanager
def _sink() -> Iterator[wire.Sink]:
    sink = wire.Sink()
    try:
        yield sink
    finally:
        sink.close()


@dataclass(frozen=True)
class Files:
    """What is stored. `studies` may be kept apart from the rest."""

    studies: list[Path]
    others: list[Path]


def _files(folder: Path, count: int) -> Files:
    studies = objects.studies(folder / "studies")
    return Files(studies, objects.images(folder / "images") + objects.slices(folder / "slices", count))


def _started(stack: ExitStack, folder: Path, sink: int) -> tuple[dict[str, Archive], dict[str, str]]:
    archives, failed = {}, {}
    for name, start in peers.ARCHIVES.items():
        try:
            archives[name] = stack.enter_context(start(folder / name, sink))
        except peers.NotInstalled as error:
            failed[name] = str(error)
    return archives, failed


def _filled(archives: dict[str, Archive], files: Files) -> dict[str, str]:
    """C-STORE into all at once; why an archive could not be filled."""

    def fill(archive: Archive) -> None:
        fitting = files.studies[-archive.most_studies :]
        for called, paths in ((archive.studies, fitting), (archive.called, files.others)):
            association = Association(archive.port, called, [STORE])
            association.store(paths)
            association.release()

    return peers.fill_all(archives, fill, PeerFailed, OSError)


def _measures(count: int, sink: wire.Sink) -> Iterator[Measure]:
    for pattern, expected, rounds in (("FIND0042", 1, 8), ("FIND00*", 100, 4), ("FIND*", 1000, 2)):
        identifier = identifier_of("STUDY", dict.fromkeys(STUDY_KEYS, "") | {"PatientID": pattern})
        name = f"C-FIND, STUDY, {_many(expected)}, ms"
        yield Measure(name, (FIND,), _find(identifier), expected, rounds=rounds, of_studies=True)
    for expected, rounds in ((1, 8), (100, 4), (1000, 2)):
        place = objects.image(expected, 1)
        unique = {"StudyInstanceUID": place.study_uid, "SeriesInstanceUID": place.series_uid}
        identifier = identifier_of("IMAGE", unique | dict.fromkeys(IMAGE_KEYS, ""))
        yield Measure(f"C-FIND, IMAGE, {_many(expected)}, ms", (FIND,), _find(identifier), expected, rounds=rounds)
    study = identifier_of("STUDY", {"StudyInstanceUID": objects.ct(1).study_uid})
    get = (GET, Context(wire.CT, wire.EXPLICIT, as_scp=True))
    yield Measure("C-GET, CT of 0.5 MB, objects/s", get, lambda each: each.get(study), count, per_second=True)
    moved = partial(_moved, sink=sink, identifier=study)
    yield Measure("C-MOVE, CT of 0.5 MB, objects/s", (MOVE,), moved, count, per_second=True)


def _find(identifier: bytes) -> Callable[[Association], int]:
    return lambda association: association.find(identifier)


def _moved(association: Association, sink: wire.Sink, identifier: bytes) -> int:
    before = sink.received
    association.move(identifier, peers.SINK)
    return sink.received - before


def _many(answers: int) -> str:
    return f"{answers:,} answer{'s' if answers > 1 else ''}"


def identifier_of(level: str, keys: dict[str, str]) -> bytes:
    """A query identifier in Implicit VR Little Endian."""
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(dataset, keyword, value)
    encoded = encode(dataset, True, True)
    assert encoded is not None
    return encoded


@dataclass(frozen=True)
class Row:
    """One measure: seconds of each archive, and why there are none."""

    measure: Measure
    taken: dict[str, list[float]]
    why_not: dict[str, str]


def _measured(measure: Measure, archives: dict[str, Archive], failed: dict[str, str], repeat: int) -> Row:
    """Each archive in turn. One that answers wrong is named with what it did, and not timed."""
    why_not = dict(failed)
    with ExitStack() as stack:
        works: dict[str, Callable[[], Any]] = {}
        for name, archive in archives.items():
            try:
                association = Association(
                    archive.port, archive.studies if measure.of_studies else archive.called, measure.contexts
                )
                came = measure.run(association)
            except (PeerFailed, OSError) as error:
                why_not[name] = str(error)
                continue
            stack.callback(association.release)
            if came == measure.expected:
                works[name] = partial(_checked, measure, association)
            else:
                why_not[name] = f"{came:,} of {measure.expected:,} came"
        taken = timing.in_turn(works, repeat * measure.rounds)
    return Row(measure, taken, why_not)


def _checked(measure: Measure, association: Association) -> None:
    came = measure.run(association)
    if came != measure.expected:
        raise PeerFailed(f"{came} of {measure.expected} came")


def _table(rows: list[Row], count: int, repeat: int) -> Table:
    names = list(peers.ARCHIVES)
    return Table(
        ("", *names),
        tuple((row.measure.name, *(_cell(row, name) for name in names)) for row in rows),
        (
            "Medians (least - most); x: how many times as fast this node is.",
            f"{objects.STUDIES:,} studies of one image, a study of series of {', '.join(map(str, objects.SERIES))} "
            f"images, a study of {count} CT slices; {repeat} rounds and more, in turn; one association.",
            "Orthanc and dcmqrscp with TCP_NODELAY=1, all with PDUs of 128 KiB; qrscp, which has no such switch, as it "
            "is. dcmqrscp has room for 500 studies.",
        ),
        {row.measure.name: {"seconds": row.taken, "why_not": row.why_not} for row in rows},
    )


def _cell(row: Row, name: str) -> str:
    if name not in row.taken:
        return row.why_not.get(name, "")
    told = row.measure.told(row.taken[name])
    if name == OURS or OURS not in row.taken:
        return told
    ratio = statistics.median(row.taken[name]) / statistics.median(row.taken[OURS])
    return f"{told}, {ratio:.1f} x"
