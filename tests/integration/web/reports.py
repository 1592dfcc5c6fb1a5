"""A Structured Report with one rectangle, as a viewer would store it."""

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComprehensiveSRStorage, ExplicitVRLittleEndian

from dicomnode import private
from dicomnode.query import request
from dicomnode.query.request import Keys
from dicomnode.uids import derived_uid
from encoder.boxes import Box


def report(image: Dataset, box: Box) -> Dataset:
    """A Comprehensive SR whose content is one region of the image."""
    asked = request.by_box(str(image.SOPInstanceUID), str(image.SOPClassUID), box, Keys())
    (group,) = private.read_request(asked).rois
    document = Dataset()
    document.file_meta = FileMetaDataset()
    document.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    document.SOPClassUID = document.file_meta.MediaStorageSOPClassUID = ComprehensiveSRStorage
    uid = derived_uid("report", str(image.SOPInstanceUID))
    document.SOPInstanceUID = document.file_meta.MediaStorageSOPInstanceUID = uid
    document.StudyInstanceUID, document.SeriesInstanceUID = image.StudyInstanceUID, derived_uid("series", uid)
    document.PatientID, document.PatientName, document.Modality = image.PatientID, image.PatientName, "SR"
    document.ValueType, document.ContinuityOfContent = "CONTAINER", "SEPARATE"
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "126000", "DCM", "Imaging Measurement Report"
    document.ConceptNameCodeSequence = [title]
    group.RelationshipType = "CONTAINS"
    document.ContentSequence = [group]
    return document
