"""Made-up instances in, what a node acknowledged of them out: honest senders, by three doors and two programs."""

import hashlib
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.dimse import client
from dicomnode.errors import PeerError
from tests.nodes import RunningNode

DX = "1.2.840.10008.5.1.4.1.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
SIDE = 96  # pixels
OTHER_EVERY = 6  # every so many instances one that is no film
BOUNDARY = "storm"


@dataclass(frozen=True)
class Made:
    """An instance that is sent."""

    path: Path
    uid: str
    study: str
    sha256: str  # of its data set, as it goes over the wire
    is_film: bool


@dataclass
class Ledger:
    """What was acknowledged and is to be there, by SOP Instance UID. Safe for threads: a dict takes one at a time."""

    kept: dict[str, Made] = field(default_factory=dict)
    count: int = 0  # of all that were acknowledged

    def acknowledged(self, made: Made) -> None:
        self.count += made.uid not in self.kept
        self.kept[made.uid] = made

    def study(self, uid: str) -> list[str]:
        return [made.uid for made in self.kept.values() if made.study == uid]

    def forget(self, study: str) -> None:
        """Its deletion was ordered: it may be there or not."""
        for uid in self.study(study):
            del self.kept[uid]


def make(folder: Path, number: int, study: int, side: int = SIDE) -> Made:
    """One instance: noise, in a study of its patient."""
    pixels = np.random.default_rng(number).integers(0, 4000, (side, side)).astype(np.uint16)
    facts = FilmFacts(f"STORM{study:05d}", f"Nobody^{study}", "O", "", "20240101", seed=f"storm {number}")
    dataset = dx_dataset(pixels, facts)
    dataset.StudyInstanceUID = f"2.25.77{study:07d}"
    dataset.SeriesInstanceUID = f"2.25.78{study:07d}"
    is_film = number % OTHER_EVERY != 0
    if not is_film:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CT
        dataset.Modality = "CT"
        dataset.SeriesInstanceUID = f"2.25.79{study:07d}"
    path = folder / f"{number}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return Made(path, dataset.SOPInstanceUID, dataset.StudyInstanceUID, digest(body(dataset)), is_film)


def body(dataset: Dataset) -> bytes:
    """The data set without its meta information, Explicit VR Little Endian."""
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    write_dataset(stream, Dataset({element.tag: element for element in dataset if element.tag.group > 2}))
    return stream.getvalue()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def data_set_of(path: Path) -> bytes:
    """What follows the meta information of a Part 10 file: 128 + DICM + the group's length and that many bytes."""
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


Sender = Callable[[RunningNode, list[Made], Ledger], None]


def by_our_client(node: RunningNode, batch: list[Made], ledger: Ledger) -> None:
    """One association of `dicomnode send`."""
    by_path = {made.path: made for made in batch}
    with suppress(PeerError):
        for sent in client.send(node.peer, list(by_path)):
            if sent.ok:
                ledger.acknowledged(by_path[sent.path])


def by_storescu(node: RunningNode, batch: list[Made], ledger: Ledger) -> None:
    """One association of DCMTK's. It names a file before it sends it, and a status behind it."""
    command = ["/usr/bin/storescu", "-v", "-aec", "DICOMNODE", "127.0.0.1", str(node.port)]
    paths = [str(made.path) for made in batch]
    done = subprocess.run([*command, *paths], capture_output=True, text=True, check=False, timeout=120)
    by_path = {str(made.path): made for made in batch}
    current: Made | None = None
    for line in (done.stdout + done.stderr).splitlines():
        if "Sending file: " in line:
            current = by_path[line.partition("Sending file: ")[2].strip()]
        if "Received Store Response (Success)" in line and current is not None:
            ledger.acknowledged(current)


def by_stow(node: RunningNode, batch: list[Made], ledger: Ledger) -> None:
    """STOW-RS, a request for each."""
    for made in batch:
        head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        content = head + made.path.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()
        kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
        headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
        request = urllib.request.Request(f"{node.url}/dicom-web/studies", content, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                if answer.status == 200:
                    ledger.acknowledged(made)
        except (urllib.error.HTTPError, OSError):
            continue


SENDERS: tuple[Sender, ...] = (by_our_client, by_storescu, by_stow)


def together(node: RunningNode, batches: list[list[Made]], ledger: Ledger) -> list[threading.Thread]:
    """Every batch by another sender, at once; the threads, started."""
    senders = _round_robin(len(batches))
    threads = [
        threading.Thread(target=sender, args=(node, batch, ledger), daemon=True)
        for sender, batch in zip(senders, batches, strict=True)
    ]
    for thread in threads:
        thread.start()
    return threads


def _round_robin(count: int) -> Iterator[Sender]:
    there = [sender for sender in SENDERS if sender is not by_storescu or Path("/usr/bin/storescu").exists()]
    return (there[number % len(there)] for number in range(count))
