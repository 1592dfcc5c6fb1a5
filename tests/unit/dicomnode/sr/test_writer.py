"""SR writer: what is written is by the book, and reads back as what was marked."""

import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, DigitalXRayImageStorageForPresentation

from dicomnode import codes, uids
from dicomnode.attributes import plain
from dicomnode.sr import reader, writer
from dicomnode.sr.writer import Marking
from encoder.anatomy import VOCABULARY, Anatomy
from encoder.boxes import Box
from tests.unit.dicomnode import films

DX = str(DigitalXRayImageStorageForPresentation)
BOX = Box(10.5, 20, 60, 90)
AT = datetime(2026, 3, 4, 5, 6, 7)


def _child(group: Dataset, concept: codes.Code) -> Dataset:
    (found,) = [item for item in group.ContentSequence if codes.first_code(item, "ConceptNameCodeSequence") == concept]
    return found


def _matched(anatomy: Anatomy = VOCABULARY[3]) -> Dataset:
    return plain.dataset(
        writer.matched_roi(
            sop_class_uid=DX, sop_instance_uid="1.2.3", frame=None, box=BOX, anatomy=anatomy, tracking="ROI 1"
        )
    )


def test_matched_roi_is_a_closed_polyline_with_its_image() -> None:
    outline = _child(_matched(), codes.IMAGE_REGION)
    assert (outline.ValueType, outline.GraphicType) == ("SCOORD", "POLYLINE")
    assert list(outline.GraphicData) == [10.5, 20, 60, 20, 60, 90, 10.5, 90, 10.5, 20]
    (image,) = outline.ContentSequence
    assert (image.ValueType, image.RelationshipType) == ("IMAGE", "SELECTED FROM")
    assert image.ReferencedSOPSequence[0].ReferencedSOPClassUID == DX
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3"
    assert "ReferencedFrameNumber" not in image.ReferencedSOPSequence[0]


def test_matched_roi_names_site_and_side() -> None:
    site = _child(_matched(), codes.FINDING_SITE)
    assert site.RelationshipType == "HAS CONCEPT MOD"
    assert site.ConceptCodeSequence[0].CodeValue == "281394001"
    assert site.ContentSequence[0].ConceptCodeSequence[0].CodeMeaning == "Right"


def test_matched_roi_is_the_same_every_time() -> None:
    assert _matched() == _matched()


def test_matched_roi_can_be_asked_in_turn() -> None:
    (roi,) = reader.rois(_matched())
    assert (roi.box, roi.sites, roi.tracking_identifier) == (BOX, (VOCABULARY[3],), "ROI 1")


def test_query_roi_is_a_planar_roi_group() -> None:
    item = writer.query_roi_item(
        sop_class_uid=DX,
        sop_instance_uid="1.2.3",
        frame=4,
        box=BOX,
        anatomy=None,
        tracking="mine",
        tracking_uid="1.2.9",
    )
    assert item.ContentTemplateSequence[0].TemplateIdentifier == "1410"
    assert _child(item, codes.TRACKING_UID).UID == "1.2.9"
    (roi,) = reader.rois(item)
    assert (roi.box, roi.frame, roi.sites, roi.tracking_identifier) == (BOX, 4, (), "mine")


def test_query_roi_gets_a_uid() -> None:
    item = writer.query_roi_item(
        sop_class_uid=DX, sop_instance_uid="1.2.3", frame=None, box=BOX, anatomy=None, tracking="mine"
    )
    assert uids.is_uid(_child(item, codes.TRACKING_UID).UID)


def _film() -> Dataset:
    return films.film(8, SOPClassUID=DX, Modality="DX")


MARKINGS = [Marking(BOX, entry, entry.name) for entry in VOCABULARY.entries] + [Marking(Box(1, 2, 30, 40), None, "?")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sr") / "query.dcm"
    writer.query_sr(_film(), MARKINGS, AT).save_as(path, enforce_file_format=True)
    return path


def test_report_reads_back(report: Path) -> None:
    rois = reader.rois(dcmread(report))
    assert [(roi.box, roi.sites, roi.tracking_identifier) for roi in rois] == [
        (marking.box, (marking.anatomy,) if marking.anatomy else (), marking.tracking) for marking in MARKINGS
    ]
    assert {roi.image_uid for roi in rois} == {"2.25.1001"}


def test_report_is_of_the_patient_and_study(report: Path) -> None:
    document = dcmread(report)
    assert document.SOPClassUID == Comprehensive3DSRStorage
    assert (document.PatientID, str(document.PatientName), document.StudyInstanceUID) == ("P1", "Made^Up", "2.25.1")
    assert document.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (document.ContentDate, document.ContentTime) == ("20260304", "050607")
    assert document.file_meta.ImplementationClassUID == uids.IMPLEMENTATION_CLASS_UID
    assert document.SOPInstanceUID.startswith("2.25.")


def test_own_codes_are_declared_when_used(report: Path) -> None:
    assert dcmread(report).CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == codes.SCHEME
    plain = writer.query_sr(_film(), [Marking(BOX, VOCABULARY[3])], AT)
    declared = [item.CodingSchemeDesignator for item in plain.get("CodingSchemeIdentificationSequence") or ()]
    assert codes.SCHEME not in declared


@pytest.mark.dcmtk
def test_dcmtk_reads_the_report(dcmtk: Path, report: Path) -> None:
    """dsrdump checks relationships, value types and required elements against the SR IOD."""
    program = shutil.which("dsrdump", path=str(dcmtk))
    assert program is not None
    dump = subprocess.run([program, report], check=True, capture_output=True, text=True)
    assert dump.stdout.count("(POLYLINE,") == len(MARKINGS)
    assert not [line for line in dump.stderr.splitlines() if line.startswith(("E:", "F:"))]


def test_real_film(data_dir: Path) -> None:
    image = dcmread(data_dir / "sr" / "dx_image.dcm", stop_before_pixels=True)
    document = writer.query_sr(image, [Marking(Box(10, 20, 60, 90), VOCABULARY[3])], AT)
    (roi,) = reader.rois(document)
    assert reader.clamped(roi, image.Columns, image.Rows) == Box(10, 20, 60, 90)
