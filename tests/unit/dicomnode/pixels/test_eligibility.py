"""eligibility: frontal chest films pass; everything else has one reason from the closed list."""

from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    TwelveLeadECGWaveformStorage,
    VideoEndoscopicImageStorage,
)

from dicomnode.codes import Code, code_item
from dicomnode.errors import NotIndexable
from dicomnode.pixels.decode import DecodeLimits, read
from dicomnode.pixels.eligibility import Policy, Reason, eligibility
from dicomnode.settings import IngestSettings
from tests.unit.dicomnode import films

POLICY = Policy.of(IngestSettings())
SC = SecondaryCaptureImageStorage


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"SOPClassUID": DigitalXRayImageStorageForPresentation, "Modality": "DX"},
        {"SOPClassUID": DigitalXRayImageStorageForProcessing, "Modality": "DX"},
        {"BodyPartExamined": "CHEST", "ViewPosition": "PA"},
        {"BodyPartExamined": "THORAX", "ViewPosition": "AP"},
        {"BodyPartExamined": "PORT CHEST"},
        {"BodyPartExamined": "CHESTABDOMEN"},
        {"BodyPartExamined": "somewhere"},
        {"BodyPartExamined": ""},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"SOPClassUID": SC, "Modality": "CR"},
        {"SOPClassUID": SC, "Modality": "OT", "BodyPartExamined": "CHEST"},
        {"SOPClassUID": SC, "Modality": "", "BodyPartExamined": "LUNG"},
        {"SOPClassUID": SC, "Modality": "SC", "AnatomicRegionSequence": [code_item(Code("51185008", "SCT", "Chest"))]},
        {"Modality": "OT"},  # a CR object all the same
        {"NumberOfFrames": 1},
        {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7},
        {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31},
        {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 15},
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},  # its pixels say whether it is grey
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL_422"},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"PatientOrientation": ["L", "F"]},
        {"ViewCodeSequence": [code_item(Code("272479007", "SCT", "postero-anterior"))]},
        {"ViewPosition": "SOMETHING"},
    ],
)
def test_films_pass(elements: dict[str, Any]) -> None:
    assert eligibility(films.header(**elements), POLICY) is None


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"SOPClassUID": BasicTextSRStorage, "Modality": "SR"}, Reason.REPORT),
        ({"SOPClassUID": KeyObjectSelectionDocumentStorage, "Modality": "KO"}, Reason.KEY_OBJECTS),
        ({"SOPClassUID": GrayscaleSoftcopyPresentationStateStorage, "Modality": "PR"}, Reason.PRESENTATION_STATE),
        ({"SOPClassUID": SegmentationStorage, "Modality": "SEG"}, Reason.SEGMENTATION),
        ({"SOPClassUID": EncapsulatedPDFStorage, "Modality": "DOC"}, Reason.DOCUMENT),
        ({"SOPClassUID": VideoEndoscopicImageStorage, "Modality": "ES"}, Reason.VIDEO),
        ({"SOPClassUID": TwelveLeadECGWaveformStorage, "Modality": "ECG"}, Reason.WAVEFORM),
        ({"SOPClassUID": CTImageStorage, "Modality": "CT"}, Reason.MODALITY),
        ({"SOPClassUID": CTImageStorage, "Modality": "DX"}, Reason.NOT_A_FILM),
        ({"SOPClassUID": DigitalMammographyXRayImageStorageForPresentation, "Modality": "MG"}, Reason.MODALITY),
        ({"SOPClassUID": SC, "Modality": "US", "BodyPartExamined": "CHEST"}, Reason.MODALITY),
        ({"SOPClassUID": SC, "Modality": "OT"}, Reason.BODY_PART_UNKNOWN),
        ({"SOPClassUID": SC, "Modality": "OT", "BodyPartExamined": "KNEE"}, Reason.BODY_PART),
        ({"BodyPartExamined": "HAND"}, Reason.BODY_PART),
        ({"BodyPartExamined": "L SPINE"}, Reason.BODY_PART),
        ({"BodyPartExamined": "skull"}, Reason.BODY_PART),
        ({"ViewPosition": "LL"}, Reason.VIEW),
        ({"ViewPosition": "RL"}, Reason.VIEW),
        ({"ViewPosition": "LLD"}, Reason.VIEW),
        ({"ViewPosition": "LATERAL"}, Reason.VIEW),
        ({"ViewPosition": "XTABLE LATERAL"}, Reason.VIEW),
        ({"ViewCodeSequence": [code_item(Code("399173006", "SCT", "left lateral"))]}, Reason.VIEW),
        ({"ViewCodeSequence": [code_item(Code("R-10228", "SRT", "lateral"))]}, Reason.VIEW),
        ({"PatientOrientation": ["A", "F"]}, Reason.VIEW),
        ({"SamplesPerPixel": 4, "PhotometricInterpretation": "CMYK"}, Reason.COLOUR),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_PARTIAL_420"}, Reason.COLOUR),
        ({"PhotometricInterpretation": "YBR_FULL_422"}, Reason.COLOUR),  # of one sample
        ({"PhotometricInterpretation": "MONOCHROME3"}, Reason.PHOTOMETRIC),
        ({"PhotometricInterpretation": ""}, Reason.PHOTOMETRIC),
        ({"NumberOfFrames": 2}, Reason.MULTI_FRAME),
        ({"Rows": 0}, Reason.NO_PIXEL_DATA),
        ({"Rows": None}, Reason.NO_PIXEL_DATA),
        ({"BitsAllocated": 12}, Reason.BIT_DEPTH),
        ({"BitsStored": 17}, Reason.BIT_DEPTH),
        ({"HighBit": 16}, Reason.BIT_DEPTH),
        ({"HighBit": 7}, Reason.BIT_DEPTH),
        ({"Rows": 16}, Reason.TOO_SMALL),
        ({"Rows": 40_000, "Columns": 40_000}, Reason.TOO_LARGE),
    ],
)
def test_the_rest_has_a_reason(elements: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(NotIndexable) as refused:
        eligibility(films.header(**elements), POLICY)
    assert refused.value.reason == reason


def test_modalities_are_configured() -> None:
    mammograms = Policy.of(IngestSettings(modalities=" mg , DX"))
    assert mammograms.modalities == {"MG", "DX"}
    with pytest.raises(NotIndexable):
        eligibility(films.header(Modality="CT"), mammograms)


def test_pixel_limit_is_configured() -> None:
    with pytest.raises(NotIndexable) as refused:
        eligibility(films.header(), Policy.of(IngestSettings(maximum_pixels=films.ROWS * films.COLUMNS - 1)))
    assert refused.value.reason == Reason.TOO_LARGE


def test_reasons_are_short_and_differ() -> None:
    assert len({reason.value for reason in Reason}) == len(Reason)
    assert all(len(reason.value) <= 64 for reason in Reason)


def test_samples(data_dir: Path) -> None:
    """Of all that others wrote, only the one DX film is one."""
    taken = []
    for path in sorted((data_dir / "dicom").rglob("*.dcm")) + sorted((data_dir / "sr").glob("*.dcm")):
        try:
            eligibility(read(path, DecodeLimits(), header_only=True), POLICY)
        except NotIndexable as refused:
            assert refused.reason in set(Reason)
        else:
            taken.append(path.name)
    assert set(taken) == {"dx_image.dcm"}
