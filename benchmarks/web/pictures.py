"""A large frame as JPEG and PNG: drawn again from a decoded frame, and with decoding in three transfer syntaxes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless

from benchmarks import films, timing
from benchmarks.web.archives import WebArchive
from benchmarks.web.asker import Asker, Refused, asking
from benchmarks.web.rows import OTHER, OURS, Row
from dicomnode import uids
from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.pixels import decode
from dicomnode.workers.renderer import FRAMES_KEPT

ROWS, COLUMNS, BITS = 2500, 2048, 16
NOISE = 24.0  # standard deviation, of 65,536 levels
COPIES = FRAMES_KEPT + 2  # more than stay decoded
ROUNDS = 4  # pictures for each round
KINDS = {"JPEG": "image/jpeg", "PNG": "image/png"}
SYNTAXES: Mapping[str, tuple[UID, str]] = {  # and which of pydicom's plugins writes it
    "raw": (ExplicitVRLittleEndian, ""),
    "JPEG-LS": (JPEGLSLossless, "pyjpegls"),
    "JPEG 2000": (JPEG2000Lossless, "pylibjpeg"),
}
GOAL_S = 0.05  # without decoding


@dataclass(frozen=True)
class Frames:
    """Files of one frame each, by the name of their transfer syntax."""

    files: Mapping[str, Sequence[Path]]

    @property
    def all(self) -> list[Path]:
        return [path for paths in self.files.values() for path in paths]


def written(folder: Path) -> Frames:
    """The same film again and again, under other UIDs."""
    folder.mkdir()
    pixels = _pixels()
    return Frames({name: _copies(folder, name, pixels) for name in SYNTAXES})


def _pixels() -> "np.ndarray[tuple[int, int], np.dtype[np.uint16]]":
    """A drawn film, enlarged, with noise: a compressed one is as large as a real one's."""
    film = dcmread(films.drawn(1)[0]).pixel_array.astype(np.float32)
    large = np.asarray(Image.fromarray(film).resize((COLUMNS, ROWS), Image.Resampling.BICUBIC)) * 16
    noise = np.random.default_rng(0).normal(0, NOISE, large.shape)
    return np.clip(large + noise, 0, (1 << BITS) - 1).astype(np.uint16)


def _copies(folder: Path, name: str, pixels: "np.ndarray[tuple[int, int], np.dtype[np.uint16]]") -> list[Path]:
    syntax, plugin = SYNTAXES[name]
    facts = FilmFacts("LARGE", "Large^Film", "O", "19700101", "20240102", seed=f"large {name}")
    dataset = dx_dataset(pixels, facts, bits_stored=BITS)
    if plugin:
        dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    return [_copy(folder / f"{syntax}-{number}.dcm", dataset, name, number) for number in range(COPIES)]


def _copy(path: Path, dataset: Dataset, name: str, number: int) -> Path:
    dataset.SOPInstanceUID = uids.derived_uid("bench frame", name, str(number))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def rows(frames: Frames, archives: Mapping[str, WebArchive], failed: Mapping[str, str], repeat: int) -> Iterator[Row]:
    """Drawn again, decoded alone, and both."""
    size = f"{COLUMNS} x {ROWS}, {BITS} bit"
    for kind, media_type in KINDS.items():
        with asking(archives[OURS].http_port) as asker:
            draw = partial(asker.get, _path(frames.files["raw"][0]), media_type)
            taken = timing.in_turn({OURS: draw}, ROUNDS * repeat)
        yield Row(f"{size}: rendered as {kind}, decoded before, ms", taken, GOAL_S)
    for name, files in frames.files.items():
        each = cycle(files)
        taken = timing.in_turn({OURS: lambda each=each: _decoded(next(each))}, ROUNDS * repeat)
        yield Row(f"{name}: decoded alone, ms", taken)
    for name, files in frames.files.items():
        for kind, media_type in KINDS.items():
            yield _rendered(f"{name}: decoded and rendered as {kind}, ms", files, media_type, archives, failed, repeat)


def _rendered(
    name: str,
    files: Sequence[Path],
    media_type: str,
    archives: Mapping[str, WebArchive],
    failed: Mapping[str, str],
    repeat: int,
) -> Row:
    why_not, works = dict(failed), {}
    askers = {archive: Asker(found.http_port) for archive, found in archives.items()}
    for archive, asker in askers.items():
        each = cycle(map(_path, files))
        try:
            asker.get(next(each), media_type)
            works[archive] = lambda asker=asker, each=each: asker.get(next(each), media_type)
        except Refused as error:
            why_not[archive] = f"refuses it: {str(error).rpartition(' ')[2]}"
    taken = timing.in_turn(works, ROUNDS * repeat)
    for asker in askers.values():
        asker.close()
    return Row(name, taken, why_not={archive: why for archive, why in why_not.items() if archive == OTHER})


def _decoded(path: Path) -> None:
    decode.stored(path, 1, decode.DecodeLimits())


def _path(file: Path) -> str:
    header = dcmread(file, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SeriesInstanceUID"])
    names = (header.StudyInstanceUID, header.SeriesInstanceUID, header.file_meta.MediaStorageSOPInstanceUID)
    return "/dicom-web/studies/{}/series/{}/instances/{}/rendered".format(*names)
