"""Five objects of two patients, and what is the same in two files that different programs wrote."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation

from dicomnode import uids
from dicomnode.demo.dx import FilmFacts, dx_dataset

DX = str(DigitalXRayImageStorageForPresentation)
SIDE = 96


@dataclass(frozen=True)
class Place:
    """Where an object stands: patient, study, series and its number there."""

    patient: str
    study: str
    series: str
    number: int

    @property
    def study_uid(self) -> str:
        return uids.derived_uid("interop study", self.study)

    @property
    def series_uid(self) -> str:
        return uids.derived_uid("interop series", self.series)

    @property
    def uid(self) -> str:
        return uids.derived_uid("interop instance", f"{self.series} {self.number}")


PLACES = (
    Place("IOP1", "a", "a1", 1),
    Place("IOP1", "a", "a1", 2),
    Place("IOP1", "a", "a2", 1),
    Place("IOP1", "b", "b1", 1),
    Place("IOP2", "c", "c1", 1),
)
NAMES = {"IOP1": "Grüber^Änne", "IOP2": "山田^太郎"}


def instance(place: Place) -> FileDataset:
    """The object of a place; noise, so that no two have the same pixels."""
    shade = np.random.default_rng(int(place.uid.removeprefix("2.25.")))
    facts = FilmFacts(
        patient_id=place.patient,
        patient_name=NAMES.get(place.patient, f"Interop^{place.patient}"),
        patient_sex="F",
        patient_birth_date="19600229",
        study_date="20230105",
        accession_number=f"ACC{place.study.upper()}",
        seed=place.uid,
    )
    dataset = dx_dataset(shade.integers(0, 4096, (SIDE, SIDE), np.uint16), facts)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = place.study_uid, place.series_uid
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = place.uid
    dataset.InstanceNumber = str(place.number)
    return dataset


def written(places: tuple[Place, ...], folder: Path) -> list[Path]:
    """One file a place, Explicit VR Little Endian."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for place in places:
        path = folder / f"{place.series}-{place.number}.dcm"
        instance(place).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def body(path: Path) -> bytes:
    """The data set of a Part 10 file as encoded: what follows the meta information."""
    length = int(dcmread(path, stop_before_pixels=True).file_meta.FileMetaInformationGroupLength)
    return path.read_bytes()[128 + 4 + 12 + length :]


def bodies(paths: list[Path]) -> dict[str, bytes]:
    """SOP Instance UID to the encoded data set."""
    return {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID): body(path) for path in paths}


def received(folder: Path) -> list[Path]:
    """What a program wrote to a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def assert_same_content(ours: list[Path], theirs: list[Path]) -> None:
    """The same instances with the same elements, whatever the transfer syntax and the meta information."""
    found, wanted = ({str(each.SOPInstanceUID): each for each in map(dcmread, paths)} for paths in (ours, theirs))
    assert found.keys() == wanted.keys()
    for uid, dataset in wanted.items():
        assert [str(element) for element in found[uid]] == [str(element) for element in dataset]
        assert found[uid].PixelData == dataset.PixelData
