"""Films and a running node in, seconds from Save in a viewer to the result SR found by QIDO-RS out."""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage

from benchmarks.web import reports
from benchmarks.web.asker import Asker, stow_parts
from dicomnode.dimse import client
from encoder.boxes import Box

LOOK_S: Final = 0.02  # between looks for the result, as finely as it is told
WAIT_S: Final = 180.0
QUERY_TITLE: Final = "REGIONMIR"
HEART: Final = (0.43, 0.45, 0.74, 0.72)  # of a film's width and height; no stored region: it has to be encoded
Save = Callable[[bytes], None]


class NoResult(Exception):
    """A question was not answered in time."""


def heart(image: Dataset) -> Box:
    """A box drawn over the heart, in pixels of the film."""
    width, height = int(image.Columns), int(image.Rows)
    return Box(HEART[0] * width, HEART[1] * height, HEART[2] * width, HEART[3] * height)


def by_stow(asker: Asker) -> Save:
    """As OHIF saves."""
    return lambda report: stow_parts(asker, [report])


def by_store(dimse_port: int, folder: Path) -> Save:
    """As a workstation saves: an association, a C-STORE to the query AE title."""
    return partial(_store, client.Peer("127.0.0.1", dimse_port, called=QUERY_TITLE), folder / "question.dcm")


def _store(peer: client.Peer, path: Path, report: bytes) -> None:
    path.write_bytes(report)
    (sent,) = client.send(peer, [path])
    if not sent.ok:
        raise NoResult(f"the question was refused: {sent}")


def answered(film: Path, asker: Asker, save: Save) -> float:
    """Seconds of one question about a film; the result panel is waited for too, but not counted. NoResult."""
    image = dcmread(film, stop_before_pixels=True)
    report = reports.report(image, heart(image))
    study = str(image.StudyInstanceUID)
    before = {kind: _found(asker, study, kind) for kind in (Comprehensive3DSRStorage, SecondaryCaptureImageStorage)}
    start = time.perf_counter()
    save(report)
    _wait(asker, study, Comprehensive3DSRStorage, before[Comprehensive3DSRStorage])
    taken = time.perf_counter() - start
    _wait(asker, study, SecondaryCaptureImageStorage, before[SecondaryCaptureImageStorage])
    return taken


def _wait(asker: Asker, study: str, kind: str, before: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while _found(asker, study, kind) <= before:
        if time.monotonic() > deadline:
            raise NoResult(f"no result within {WAIT_S:g} s")
        time.sleep(LOOK_S)


def _found(asker: Asker, study: str, kind: str) -> int:
    """How many instances of a SOP class the study has."""
    return len(json.loads(asker.get(f"/dicom-web/studies/{study}/instances?SOPClassUID={kind}") or b"[]"))
