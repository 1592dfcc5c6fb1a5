"""What is kept for retrieval tests, and a peer that asks for it by C-GET or C-MOVE and counts what it is told."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import config, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicomnode import uids
from dicomnode.demo.dx import FilmFacts, dx_dataset

GET, MOVE = StudyRootQueryRetrieveInformationModelGet, StudyRootQueryRetrieveInformationModelMove
DX, CT, SC = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7"
EXPLICIT, IMPLICIT, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.70"
SIDE = 64
CLASSES = (DX, CT, SC, CT)
STUDY, OTHER = uids.derived_uid("retrieve", "study"), uids.derived_uid("retrieve", "other")


def series_uid(study: str, number: int) -> str:
    return uids.derived_uid(study, str(number // 2))


def instance_uid(study: str, number: int) -> str:
    return uids.derived_uid(study, "instance", str(number))


def film(study: str, number: int, side: int = SIDE) -> Any:
    """One object of a study of two series; every other is no film but CT or SC."""
    shade = np.random.default_rng(number)
    facts = FilmFacts("RET1", "Retrieve^Me", "F", "19600229", "20230105", seed=instance_uid(study, number))
    dataset = dx_dataset(shade.integers(0, 4096, (side, side), np.uint16), facts)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series_uid(study, number)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = instance_uid(study, number)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CLASSES[number % len(CLASSES)]
    dataset.add_new(0x00110010, "LO", "SOMEBODY")
    dataset.add_new(0x00111001, "OB", bytes(range(6)))
    return dataset


def written(folder: Path, study: str, count: int, dcmcjpeg: Path | None = None) -> list[Path]:
    """The objects as files; with `dcmcjpeg` the first in JPEG Lossless."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.dcm" for number in range(count)]
    for number, path in enumerate(paths):
        film(study, number).save_as(path, enforce_file_format=True)
    if dcmcjpeg:
        subprocess.run([str(dcmcjpeg), "+e1", str(paths[0]), str(paths[0])], check=True, capture_output=True)
    return paths


def body(path: Path) -> bytes:
    """The data set of a Part 10 file as encoded."""
    meta = dcmread(path, stop_before_pixels=True).file_meta
    return path.read_bytes()[128 + 4 + 12 + meta.FileMetaInformationGroupLength :]


def identifier(level: str, **keys: Any) -> Dataset:
    """Also with values that are none of their VR."""
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        tag = tag_for_keyword(keyword)
        dataset.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=config.IGNORE))
    return dataset


@dataclass
class Told:
    """What an asker heard and got."""

    statuses: list[int] = field(default_factory=list)
    counts: list[tuple[int | None, ...]] = field(default_factory=list)  # remaining, completed, failed, warning
    failed: list[str] = field(default_factory=list)
    comment: str = ""
    bodies: dict[str, bytes] = field(default_factory=dict)

    def hear(self, answers: Any) -> "Told":
        for status, found in answers:
            self.statuses.append(status.get("Status", -1))
            self.comment = str(status.get("ErrorComment", ""))
            names = ("Remaining", "Completed", "Failed", "Warning")
            self.counts.append(tuple(status.get(f"NumberOf{name}Suboperations") for name in names))
            listed = found.get("FailedSOPInstanceUIDList") if found is not None else None
            listed = [listed] if isinstance(listed, str) else listed or ()
            self.failed = [str(uid) for uid in listed if uid]
        return self


def got(node, asked: Dataset, storage: dict[str, list[str]], *, status=0x0000, pdu=16382, model=GET, ext=()) -> Told:
    """C-GET by pynetdicom with a storage context for each class; `status`: what it answers to C-STORE."""
    told = Told()

    def keep(event):
        told.bodies[str(event.request.AffectedSOPInstanceUID)] = event.request.DataSet.getvalue()
        return status(event) if callable(status) else status

    entity = AE("ASKER")
    entity.requested_contexts = [build_context(model, EXPLICIT), *(build_context(*each) for each in storage.items())]
    roles = [build_role(uid, scp_role=True) for uid in storage]
    association = entity.associate(
        "127.0.0.1",
        node.port,
        ae_title="DICOMNODE",
        ext_neg=[*roles, *ext],
        max_pdu=pdu,
        evt_handlers=[(evt.EVT_C_STORE, keep)],
    )
    assert association.is_established
    told.hear(association.send_c_get(asked, model))
    association.release()
    return told


def moved(node, asked: Dataset, destination: str, model=MOVE) -> Told:
    """C-MOVE by pynetdicom."""
    entity = AE("ASKER")
    entity.requested_contexts = [build_context(model, EXPLICIT)]
    association = entity.associate("127.0.0.1", node.port, ae_title="DICOMNODE")
    assert association.is_established
    told = Told().hear(association.send_c_move(asked, destination, model))
    association.release()
    return told
