"""A CT series of half a megabyte a slice, retrieved: in one answer, and frame by frame as a viewer does."""

from collections.abc import Callable, Iterator, Mapping

from pydicom.uid import ExplicitVRLittleEndian

from benchmarks import objects, timing
from benchmarks.web.archives import WebArchive
from benchmarks.web.asker import DICOM, Refused, asking, get_all
from benchmarks.web.rows import Row
from dicomnode import uids

SLICE = 2 * objects.CT * objects.CT  # bytes of a slice's pixels
FRAME = f'multipart/related; type="application/octet-stream"; transfer-syntax={ExplicitVRLittleEndian}'
# A series as it is stored; without the parameter Orthanc sends Explicit VR Little Endian too, which these slices are.
WHOLE = f"{DICOM}; transfer-syntax={ExplicitVRLittleEndian}"


def rows(count: int, archives: Mapping[str, WebArchive], failed: Mapping[str, str], repeat: int) -> Iterator[Row]:
    """`count` slices."""
    place = objects.ct(1)
    series = f"/dicom-web/studies/{place.study_uid}/series/{place.series_uid}"
    frames = [f"{series}/instances/{_uid(number)}/frames/1" for number in range(1, count + 1)]
    ways: dict[str, Callable[[int], int]] = {
        "in one answer": lambda port: _whole(port, series),
        "each frame, 6 connections": lambda port: get_all(port, frames, FRAME),
    }
    for name, way in ways.items():
        works: dict[str, Callable[[], None]] = {}
        for archive, found in archives.items():
            works[archive] = lambda way=way, port=found.http_port: _checked(way(port), count)
        taken = timing.in_turn(works, 2 * repeat)
        title = f"WADO-RS of {count} slices of 0.5 MB, {name}, MB/s"
        yield Row(title, taken, megabytes=count * SLICE / 1e6, why_not=failed)


def _whole(port: int, series: str) -> int:
    with asking(port) as asker:
        return len(asker.get(series, WHOLE))


def _checked(size: int, count: int) -> None:
    if size < count * SLICE:
        raise Refused(f"{size:,} of {count * SLICE:,} bytes came")


def _uid(number: int) -> str:
    place = objects.ct(number)
    return uids.derived_uid("bench instance", place.study, place.series, str(place.number))
