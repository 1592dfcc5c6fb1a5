"""Whole data sets encoded: byte for byte what pydicom writes."""

from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from dicomnode import private
from dicomnode.attributes import elements
from dicomnode.sr import writer
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box


def of(**values: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def response(tracking: str = "ROI 1", **values: Any) -> Dataset:
    """An answer to a region query."""
    dataset = of(QueryRetrieveLevel="IMAGE", SOPInstanceUID="1.2.3", **values)
    matched = writer.matched_roi_item(
        sop_class_uid="1.2",
        sop_instance_uid="1.2.3",
        frame=7,
        box=Box(1.5, 2.25, 30.0, 40.0),
        anatomy=VOCABULARY[24],
        tracking=tracking,
        tracking_uid="2.25.7",
    )
    private.write_response(dataset, private.ResponseKeys(0.1234567, 3, "model 1", matched, "anatomy unsure; locally"))
    return dataset


DATASETS = {
    "nothing": Dataset(),
    "response": response(PatientName="A^B", PatientID="odd", StudyDate="20240101", ModalitiesInStudy=["CR", "DX"]),
    "names": of(PatientName="A^B==", OtherPatientNames=["C^D", "E^F^^"], ReferringPhysicianName=""),
    "japanese": response(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada^Tarou=山田^太郎"),
    "utf-8": response("Größe", SpecificCharacterSet="ISO_IR 192", PatientName="Müller"),
    "numbers": of(
        PixelSpacing=["0.10", "1e-3"],
        InstanceNumber="007",
        Rows=5,
        FrameIncrementPointer=0x00181063,
        SliceThickness=None,
    ),
    "lists": of(GraphicData=[1.5, 2.5], ImageType=["ORIGINAL", "", "AXIAL"], PatientWeight=70.5, WindowCenter=[]),
    "binary": of(PixelData=b"\0\1", BitsAllocated=8, BitsStored=8, PixelRepresentation=0, SmallestImagePixelValue=3),
    "empty sequence": of(ReferencedImageSequence=[], OtherPatientIDsSequence=[Dataset(), of(PatientID="x")]),
    "long": of(DerivationDescription="x" * 1000, TextValue="line\r\n\\and one"),
}


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.filterwarnings("ignore")
def test_it_is_what_pydicom_writes(name: str, implicit: bool) -> None:
    dataset = DATASETS[name]
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, dataset)
    assert elements.encoded(dataset, implicit_vr=implicit) == buffer.getvalue()


def test_answers_do_not_wait_for_pydicom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "write_dataset", lambda *_: pytest.fail("the slow way"))
    for name in ("nothing", "response", "names", "empty sequence", "lists"):
        elements.encoded(DATASETS[name])
