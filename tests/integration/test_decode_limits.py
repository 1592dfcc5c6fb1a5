"""A film that a codec does not survive, or that asks for all the memory there is: it fails, those beside it do not."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless, RLELossless

from dicomnode import models
from dicomnode.demo import films
from dicomnode.errors import DecodeError
from dicomnode.settings import IngestSettings, LogSettings
from dicomnode.workers.child import Child
from dicomnode.workers.embedding import RoiRequest
from dicomnode.workers.indexer import IndexerPlan
from dicomnode.workers.pool import Pool
from dicomnode.workers.roi import RoiProcess, RoiSettings
from encoder.pipeline import SHIPPED
from storage.records import Unindexed
from storage.store import Store
from tests import databases
from tests.integration import archives
from tests.integration.crashing import POISON

MEMORY_MIB = 200
ATTEMPTS = 2
SIDE = 7000  # pixels: within the limit of pixels, and 600 MiB while it is decoded
SMALLER = 3600  # 170 MiB


def rle_of_400_million_pixels(dataset: Dataset) -> None:
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.Rows = dataset.Columns = 20_000


def rle_that_unpacks_to_more_than_memory(dataset: Dataset) -> None:
    """A legal run of 128 equal bytes, again and again: 100 MB of pixels in a file of 1.5 MB."""
    dataset.Rows = dataset.Columns = SIDE
    runs = b"\x81\x00" * (SIDE * SIDE // 128 + 1)
    header = b"".join(number.to_bytes(4, "little") for number in (2, 64, 64 + len(runs), *[0] * 13))
    compressed(dataset, RLELossless, header + runs + runs)


def j2k_of_many_tiles(dataset: Dataset) -> None:
    """65,000 tiles of one tile's data: openjpeg keeps 5 KiB for each before it reads any."""
    compressed(dataset, JPEG2000Lossless, siz(j2k(dataset), 24, 2, 2))


def j2k_of_more_than_memory(dataset: Dataset) -> None:
    """Header and codestream agree on a size that is allowed; the data is of a small picture."""
    frame = siz(siz(j2k(dataset), 8, SIDE, SIDE), 24, SIDE, SIDE)
    compressed(dataset, JPEG2000Lossless, frame)
    dataset.Rows = dataset.Columns = SIDE


def j2k_of_tiny_precincts(dataset: Dataset) -> None:
    """A size that fits, cut into precincts of 2 x 2: openjpeg takes 7 GiB to keep books on them.

    COD (ISO/IEC 15444-1 A.6.1) gets the flag for precinct sizes and one size a resolution.
    """
    frame = siz(siz(j2k(dataset), 8, SMALLER, SMALLER), 24, SMALLER, SMALLER)
    at = frame.index(b"\xff\x52")
    length = int.from_bytes(frame[at + 2 : at + 4], "big")
    body = bytearray(frame[at + 4 : at + 2 + length])
    sizes = bytes([0x00, *[0x11] * body[5]])  # PPx, PPy: exponents; body[5]: decomposition levels
    body[0] |= 1
    segment = b"\xff\x52" + (length + len(sizes)).to_bytes(2, "big") + bytes(body) + sizes
    compressed(dataset, JPEG2000Lossless, frame[:at] + segment + frame[at + 2 + length :])
    dataset.Rows = dataset.Columns = SMALLER


def poison(dataset: Dataset) -> None:
    dataset.PatientID = POISON


def j2k(dataset: Dataset) -> bytes:
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    return next(generate_frames(dataset.PixelData, number_of_frames=1))


def siz(frame: bytes, at: int, *numbers: int) -> bytes:
    """A codestream with other 32 bit numbers in its SIZ segment (ISO/IEC 15444-1 A.5.1)."""
    changed = b"".join(number.to_bytes(4, "big") for number in numbers)
    return frame[:at] + changed + frame[at + len(changed) :]


def compressed(dataset: Dataset, syntax: str, frame: bytes) -> None:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True


WRONG: dict[str, tuple[Callable[[Dataset], None], str, str]] = {
    "1.2.3.1": (rle_of_400_million_pixels, "not_indexable", "image too large: 20000 x 20000"),
    "1.2.3.2": (rle_that_unpacks_to_more_than_memory, "failed", "ingest.maximum_memory_mib"),
    "1.2.3.3": (j2k_of_many_tiles, "failed", "tiles"),
    "1.2.3.4": (j2k_of_more_than_memory, "failed", "ingest.maximum_memory_mib"),
    "1.2.3.5": (j2k_of_tiny_precincts, "failed", "cannot be decoded"),
    "1.2.3.6": (poison, "failed", f"its worker died or hung {ATTEMPTS} times"),
}


def changed(path: Path, uid: str, change: Callable[[Dataset], None]) -> Dataset:
    dataset = dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    change(dataset)
    return dataset


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "root", max_attempts=ATTEMPTS) as opened:
        models.ensure_live(opened, "")
        yield opened


def indexed_by(store: Store, folder: Path) -> int:
    """Do every job with a real worker that crashes on the poison; the most data that a worker held, in MiB."""
    ingest = IngestSettings(workers=1, maximum_attempts=ATTEMPTS, maximum_memory_mib=MEMORY_MIB)
    started: list[Child] = []

    def start(_: str, plan: IndexerPlan) -> Child:
        started.append(Child("tests.integration.crashing", plan))
        return started[-1]

    pool = Pool(store, IndexerPlan(folder, databases.url(folder), "test", ingest, LogSettings()), 1, start)
    pool.start()
    most, deadline = 0, time.monotonic() + 120
    try:
        while store.jobs.counts(store.generations.live().id).queued:
            assert time.monotonic() < deadline
            if started[-1].alive:
                most = max(most, psutil.Process(started[-1].pid).memory_info().rss >> 20)
            time.sleep(0.05)
    finally:
        pool.stop()
    assert len(started) == 1 + ATTEMPTS  # one for each crash, and none for a bomb
    return most


@pytest.mark.timeout(300)
def test_bombs_and_crashes_end_as_failed_and_the_films_beside_them_are_indexed(store, tmp_path):
    drawn = films.drawn(tmp_path, 2, lambda *_: None)
    for uid, (change, _, _) in WRONG.items():
        archives.put(store, changed(drawn[0], uid, change), tmp_path)
    for path in drawn:
        archives.put(store, dcmread(path), tmp_path)
    most = indexed_by(store, tmp_path / "root")
    counts = store.jobs.counts(store.generations.live().id)
    assert (counts.indexed, counts.queued) == (len(drawn), 0)
    found: dict[str, Unindexed] = {row.sop_instance_uid: row for row in store.jobs.failures()}
    for uid, (_, state, words) in WRONG.items():
        assert (found[uid].state, words in found[uid].reason) == (state, True), found[uid]
        assert found[uid].attempts == (ATTEMPTS if uid == "1.2.3.6" else 1), found[uid]
    assert most < 1200, "a worker with its models is 650 MiB"


@pytest.mark.timeout(300)
def test_the_query_model_survives_a_bomb_and_answers_the_next_question(tmp_path):
    (film,) = films.drawn(tmp_path, 1, lambda *_: None)
    bomb = tmp_path / "bomb.dcm"
    changed(film, "1.2.3", rle_that_unpacks_to_more_than_memory).save_as(bomb, enforce_file_format=True)
    settings = RoiSettings(1, IngestSettings(maximum_memory_mib=MEMORY_MIB), LogSettings(), SHIPPED)
    process = RoiProcess(settings, timeout_s=60.0)
    try:
        with pytest.raises(DecodeError, match="MemoryError"):
            process.embed(RoiRequest(SHIPPED, bomb, 1, ((10.0, 10.0, 90.0, 90.0),)))
        survivor = process._child.pid
        answer = process.embed(RoiRequest(SHIPPED, film, 1, ((150.0, 150.0, 350.0, 350.0),)))
        assert answer.vectors["anatomy"].shape[0] == 1
        assert process._child.pid == survivor
        assert psutil.Process(survivor).rlimit(psutil.RLIMIT_CORE) == (0, 0)
    finally:
        process.stop()
