"""SRs that cannot be answered, or lie, through both doors: each ends in clear words, told to the asker by an object."""

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import BasicTextSRStorage, EncapsulatedPDFStorage, ExplicitVRLittleEndian, SegmentationStorage

from dicomnode.dimse import client
from dicomnode.dimse.client import Peer
from dicomnode.errors import PeerError
from dicomnode.query import request
from dicomnode.query.request import Keys
from dicomnode.quiet import quiet_pydicom
from dicomnode.sr import reader
from dicomnode.sr.reader import ASKING_CLASSES
from dicomnode.uids import new_uid
from encoder.boxes import Box
from storage.records import Question
from storage.store import Store
from tests import nodes
from tests.integration import asking
from tests.integration.asking import HEART_BOX
from tests.integration.interop import programs
from tests.integration.test_questions import taking
from tests.nodes import RunningNode
from tests.raw import wait_until

FILMS = 13
WAIT_S = 3
LATE = f"image not stored: send it first (waited {WAIT_S} s)"
SPACE = "1.2.840.7"


@pytest.fixture(scope="module")
def films() -> list[Dataset]:
    """The first two are of the asking patient, in two studies; the third has a plane in space, the last is no image."""
    made = [asking.film(number, "ASKER-1" if number < 2 else "") for number in range(FILMS)]
    made[2].FrameOfReferenceUID, made[2].PixelSpacing, made[2].SliceThickness = SPACE, [1, 1], 2
    made[2].ImageOrientationPatient, made[2].ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
    made[-1].SOPClassUID = made[-1].file_meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    made[-1].Modality, made[-1].PatientID = "DOC", "ASKER-1"
    for keyword in ("PixelData", "Rows", "Columns", "PhotometricInterpretation"):
        delattr(made[-1], keyword)
    return made


@pytest.fixture(scope="module")
def port() -> int:
    return programs.free_port()


@pytest.fixture(scope="module")
def node(films, port, tmp_path_factory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("doors")
    (folder / "node.toml").write_text(
        f'[dimse]\nunknown_peers = "accept"\n[query]\nwait_s = {WAIT_S}\n'
        f'[peers.VIEWER]\nae_title = "VIEWER"\nhost = "127.0.0.1"\nport = {port}\n'
    )
    asking.indexed(folder / "root", folder, films)
    arguments = ("--workers", "0", "--http-port", "0", "--config", str(folder / "node.toml"))
    with nodes.running_node(folder / "root", *arguments) as running:
        yield running


def by_store(node: RunningNode, paths: list[Path]) -> None:
    peer = Peer("127.0.0.1", node.port, "REGIONMIR", "STRANGER")
    assert [sent.status for sent in client.send(peer, paths)] == [0x0000] * len(paths)


def by_stow(node: RunningNode, paths: list[Path]) -> None:
    for path in paths:
        body, kind = path.read_bytes(), {"Content-Type": "application/dicom"}
        assert httpx.post(f"{node.url}/dicom-web/studies", content=body, headers=kind, timeout=30).status_code == 200


DOORS = {"C-STORE": by_store, "STOW-RS": by_stow}


def questions(node: RunningNode, uids: list[str]) -> list[Question]:
    """What became of the SRs, when all is done for them: their objects are stored."""

    ended: list[Question] = []  # as it was seen: one whose notice is there already is taken up once more

    def are_done() -> bool:
        with Store.open(node.root) as store:
            each = [store.questions.of_sr(uid) for uid in uids]
            made = [one for one in each if one is not None and one.state in asking.ENDED and one.owner is None]
            ended[:] = [one for one in made if not one.report_uid or store.catalog.instance(one.report_uid)]
        return len(ended) == len(uids)

    assert wait_until(are_done, 60), [asking.asked(node.root, uid) for uid in uids]
    return ended


def outcomes(node: RunningNode, door: str, documents: dict[str, Dataset], folder: Path) -> dict[str, Question]:
    """The SRs stored through a door, and what became of each."""
    DOORS[door](node, [asking.saved(document, folder) for document in documents.values()])
    ended = questions(node, [str(document.SOPInstanceUID) for document in documents.values()])
    return dict(zip(documents, ended, strict=True))


# --- what is wrong ---------------------------------------------------------------------------------------------


def changed(change: Callable[[Dataset], None]) -> Callable[[list[Dataset]], Dataset]:
    """A good question with something done to it."""

    def make(films: list[Dataset]) -> Dataset:
        document = copy.deepcopy(asking.question(films[0]))  # highdicom lets it share elements with the film
        change(document)
        return document

    return make


def late_film(number: int, films: list[Dataset]) -> Dataset:
    """One more film of the asking patient."""
    made = asking.film(number, "ASKER-1")
    made.PatientName = films[0].PatientName
    return made


def outlines(document: Dataset) -> list[Dataset]:
    """The SCOORD items."""
    with quiet_pydicom():
        found = [document]
        for item in found:
            found += list(item.get("ContentSequence", ()))
        return [item for item in found if item.get("ValueType") == "SCOORD"]


def coordinates(*values: float, kind: str = "POLYLINE") -> Callable[[list[Dataset]], Dataset]:
    def change(document: Dataset) -> None:
        (outline,) = outlines(document)
        outline.GraphicType, outline.GraphicData = kind, list(values)

    return changed(change)


def reference(**values: object) -> Callable[[list[Dataset]], Dataset]:
    """Another SOP class or instance than that of the film, in the content and not in the evidence."""

    def change(document: Dataset) -> None:
        (outline,) = outlines(document)
        for keyword, value in values.items():
            setattr(outline.ContentSequence[0].ReferencedSOPSequence[0], keyword, value)

    return changed(change)


def no_region(document: Dataset) -> None:
    for group in document.ContentSequence:
        for each in group.get("ContentSequence", ()):
            each.ContentSequence = [item for item in each.get("ContentSequence", ()) if item.ValueType != "SCOORD"]


def no_image(document: Dataset) -> None:
    (outline,) = outlines(document)
    del outline.ContentSequence


def deep(document: Dataset) -> None:
    item = document
    for _ in range(40):
        child = Dataset()
        child.ValueType, child.RelationshipType = "CONTAINER", "CONTAINS"
        item.ContentSequence = [*item.get("ContentSequence", ()), child] if item is document else [child]
        item = child


def wrong_patient(document: Dataset) -> None:
    document.PatientID = "SOMEBODY-ELSE"


def two_patients(films: list[Dataset]) -> Dataset:
    document = asking.question(films[0], HEART_BOX, HEART_BOX)
    outlines(document)[1].ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = films[3].SOPInstanceUID
    return document


def claimed(films: list[Dataset]) -> Dataset:
    """In another patient's study, of that patient, about the asker's film."""
    document = copy.deepcopy(asking.question(films[0]))
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID"):
        setattr(document, keyword, films[4][keyword].value)
    return document


def about(number: int) -> Callable[[list[Dataset]], Dataset]:
    """Its region lies on another object than the film."""
    return lambda films: reference(ReferencedSOPInstanceUID=films[number].SOPInstanceUID)(films)


UNTOLD = {"wrong patient", "study of another patient", "another patient's film"}
OTHERS = "SR names another patient than its image"
OUTSIDE = "region lies outside the image"
UNREADABLE = "region refers to something without a valid UID"
WRONG: dict[str, tuple[Callable[[list[Dataset]], Dataset], str]] = {
    "no region": (changed(no_region), "SR has no region"),
    "no image": (changed(no_image), "region names no image"),
    "unknown image": (lambda films: asking.question(late_film(900, films)), LATE),
    "wrong patient": (changed(wrong_patient), OTHERS),
    "study of another patient": (claimed, OTHERS),
    "another patient's film": (lambda films: relabelled(asking.question(films[5]), films[0]), OTHERS),
    "two patients": (two_patients, "SR is about images of several patients"),
    "65 regions": (lambda films: asking.question(films[0], *[HEART_BOX] * 65), "SR has more than 64 regions"),
    "not a number": (coordinates(10, 10, math.nan, 90), "region has malformed coordinates"),
    "infinite": (coordinates(10, 10, math.inf, 90), "region has malformed coordinates"),
    "odd count": (coordinates(10, 10, 90), "region has malformed coordinates"),
    "no coordinates": (coordinates(), "region has no coordinates"),
    "far outside": (coordinates(1e30, 1e30, 3e38, 1e30, 3e38, 3e38), OUTSIDE),
    "a huge circle elsewhere": (coordinates(-3e38, -3e38, -2e38, -3e38, kind="CIRCLE"), OUTSIDE),
    "three ends of an ellipse": (coordinates(1, 2, 3, 4, 5, 6, kind="ELLIPSE"), "ELLIPSE needs 4 points"),
    "unknown graphic": (coordinates(1, 2, 3, 4, kind="SPIRAL"), "graphic type is not supported"),
    "a path as a UID": (reference(ReferencedSOPInstanceUID="../../etc/passwd"), UNREADABLE),
    "a frame that there is not": (reference(ReferencedFrameNumber=7), "the ROI's frame is not in the image"),
    "no picture": (about(-1), "the ROI's image has no pixels"),
    "nested": (changed(deep), "SR is nested too deeply"),
}  # fmt: skip


def relabelled(document: Dataset, film: Dataset) -> Dataset:
    """The SR as one of another patient and study."""
    document = copy.deepcopy(document)
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID"):
        setattr(document, keyword, film[keyword].value)
    return document


@pytest.mark.parametrize("door", DOORS)
def test_what_is_wrong_is_failed_in_words_and_the_asker_is_told(node, films, tmp_path, door):
    with quiet_pydicom():
        documents = {name: make(films) for name, (make, _) in WRONG.items()}
        found = outcomes(node, door, documents, tmp_path)
    assert {name: each.reason for name, each in found.items()} == {name: why for name, (_, why) in WRONG.items()}
    assert {each.state for each in found.values()} == {"failed"}
    assert {name for name, each in found.items() if each.report_uid is None} == UNTOLD
    for name in WRONG.keys() - UNTOLD:
        check_notice(node, found[name], documents[name], films)
    assert client.echo(node.peer) == 0
    assert "Traceback" not in node.log_text


def check_notice(node: RunningNode, question: Question, asked: Dataset, films: list[Dataset]) -> None:
    """In the asker's study, in plain words, of nobody else, and no question itself."""
    path = asking.stored_file(node.root, question.report_uid)
    told = dcmread(path)
    assert (told.SOPClassUID, told.Modality, told.SeriesDescription) == (BasicTextSRStorage, "SR", "Similar regions")
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID"):
        assert told[keyword].value == asked[keyword].value
    texts = [str(item.get("TextValue")) for item in told.ContentSequence]
    assert f"No answer: {question.reason}" in texts
    content = path.read_bytes()
    assert [text for text in asking.strangers(films[2:-1]) if text in content] == []


def test_a_notice_is_found_like_any_instance_and_asks_nothing(node, films, tmp_path):
    with quiet_pydicom():
        document = changed(no_region)(films)
    (done,) = outcomes(node, "C-STORE", {"one": document}, tmp_path).values()
    series = httpx.get(
        f"{node.url}/dicom-web/studies/{films[0].StudyInstanceUID}/series",
        params={"SeriesDescription": "Similar regions"},
    ).json()
    assert [found["00080060"]["Value"] for found in series] == [["SR"]] * len(series) != []
    assert done.report_uid in {each["report_uid"] for each in nodes.answered("questions", "--root", node.root)}
    told = dcmread(asking.stored_file(node.root, done.report_uid))
    assert client.echo(node.peer) == 0
    for door in DOORS.values():
        door(node, [asking.saved(told, tmp_path)])
    assert asking.asked(node.root, done.report_uid) is None
    told.SOPInstanceUID = told.file_meta.MediaStorageSOPInstanceUID = new_uid()  # as of another node
    (again,) = outcomes(node, "STOW-RS", {"one": told}, tmp_path).values()
    assert (again.state, again.reason, again.report_uid) == ("failed", "SR is a result of a region search", None)


def test_a_notice_is_sent_to_who_asked_once(node, films, port, tmp_path):
    """The same SR that fails again for the same reason is told the same."""
    with quiet_pydicom():
        document = changed(no_region)(films)
    path = asking.saved(document, tmp_path)
    uid = str(document.SOPInstanceUID)
    peer = Peer("127.0.0.1", node.port, "REGIONMIR", "VIEWER")
    with taking(port, "VIEWER", classes=[BasicTextSRStorage]) as taken:
        told = []
        for _ in range(2):
            assert [sent.status for sent in client.send(peer, [path])] == [0x0000]
            told += [each.report_uid for each in questions(node, [uid])]
        assert wait_until(lambda: len(taken) > 0, 10)
        assert wait_until(lambda: len(taken) > 1, 1.5) is False
    assert [str(each.SOPInstanceUID) for each in taken] == told[:1] == told[1:]


def test_a_question_that_failed_is_told_so_by_every_way_to_read_it(node, films, tmp_path):
    with quiet_pydicom():
        document = changed(no_region)(films)
    (done,) = outcomes(node, "STOW-RS", {"one": document}, tmp_path).values()
    for uid in (document.SOPInstanceUID, done.report_uid):
        with pytest.raises(PeerError, match="SR has no region"):
            list(client.find(node.peer, request.by_stored_sr(str(uid), Keys())))
        answer = httpx.post(f"{node.url}/similar", json={"sr": str(uid)}, timeout=30)
        assert (answer.status_code, answer.json()["detail"]) == (400, "SR has no region")


def test_what_is_late_is_told_and_then_answered_when_it_is_asked_again(node, films, tmp_path):
    film = late_film(901, films)
    document = asking.question(film)
    (late,) = outcomes(node, "C-STORE", {"one": document}, tmp_path).values()
    assert late.reason == LATE
    assert all(sent.ok for sent in client.send(node.peer, [asking.saved(film, tmp_path)]))
    by_stow(node, [asking.saved(document, tmp_path)])
    answered = asking.when(node.root, str(document.SOPInstanceUID), lambda question: question.state == "stored", 40)
    assert answered.report_uid != late.report_uid
    assert len(answered.answer["hits"]) == 10


@pytest.mark.parametrize("name", [name for name in WRONG if name not in UNTOLD | {"two patients"}])
def test_srs_that_are_wrong_are_refused_in_words_as_bodies(node, films, tmp_path, name):
    """POST /similar has no asker's study: it answers at once, and does not wait."""
    make, why = WRONG[name]
    with quiet_pydicom():
        body = asking.saved(make(films), tmp_path).read_bytes()
    answer = httpx.post(f"{node.url}/similar", content=body, headers={"Content-Type": "application/dicom"}, timeout=30)
    assert answer.status_code == (404 if why == LATE else 400)
    assert answer.json()["detail"] == why.partition(" (waited")[0]


# --- what lies and is answered as it truly is -------------------------------------------------------------------


def forged(films: list[Dataset]) -> dict[str, Dataset]:
    """The SR says one thing of the image and the archive another: the SOP Instance UID decides."""
    elsewhere = copy.deepcopy(asking.question(films[0]))
    elsewhere.StudyInstanceUID = films[1].StudyInstanceUID  # the patient's other one
    evidence = copy.deepcopy(asking.question(films[0]))
    study = evidence.CurrentRequestedProcedureEvidenceSequence[0]
    study.StudyInstanceUID = films[6].StudyInstanceUID
    study.ReferencedSeriesSequence[0].SeriesInstanceUID = films[6].SeriesInstanceUID
    return {
        "class": reference(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2")(films),
        "study": elsewhere,
        "evidence": evidence,
        "huge": coordinates(-3e38, -3e38, 3e38, -3e38, 3e38, 3e38, -3e38, 3e38)(films),
    }


@pytest.mark.parametrize("door", DOORS)
def test_an_answer_lies_on_the_image_and_in_the_study_that_are_stored(node, films, tmp_path, door):
    for name, done in outcomes(node, door, forged(films), tmp_path).items():
        assert (done.state, done.reason) == ("stored", ""), name
        report = dcmread(asking.stored_file(node.root, done.report_uid))
        assert (report.StudyInstanceUID, report.PatientID) == (films[0].StudyInstanceUID, "ASKER-1")
        rois = reader.rois(report)
        expected = Box(0, 0, asking.SIDE, asking.SIDE) if name == "huge" else HEART_BOX
        assert {(roi.image_uid, roi.box) for roi in rois} == {(films[0].SOPInstanceUID, expected)}
        (library,) = report.CurrentRequestedProcedureEvidenceSequence
        assert library.StudyInstanceUID == films[0].StudyInstanceUID
        content = asking.stored_file(node.root, done.report_uid).read_bytes()
        assert [text for text in asking.strangers(films[2:-1]) if text in content] == []


# --- regions that need another object ----------------------------------------------------------------------------


def in_space(film: Dataset, space: str = SPACE, z: float = 0.0) -> Dataset:
    """The heart's box in millimetres, as 3-D coordinates on the film's plane."""
    document = copy.deepcopy(asking.question(film))
    (outline,) = outlines(document)
    left, top, right, bottom = (side - 0.5 for side in HEART_BOX)
    outline.ValueType, outline.GraphicType = "SCOORD3D", "POLYGON"
    outline.GraphicData = [left, top, z, right, top, z, right, bottom, z, left, bottom, z]
    outline.ReferencedFrameOfReferenceUID = space
    del outline.ContentSequence
    return document


def segmentation(film: Dataset) -> Dataset:
    """One binary segment over the heart's box. PS3.3 A.51."""
    mask = np.zeros((asking.SIDE, asking.SIDE), np.uint8)
    mask[int(HEART_BOX.y1) : int(HEART_BOX.y2), int(HEART_BOX.x1) : int(HEART_BOX.x2)] = 1
    dataset = copy.deepcopy(film)
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = SegmentationStorage, new_uid(), "SEG"
    dataset.SeriesInstanceUID, dataset.SegmentationType, dataset.NumberOfFrames = new_uid(), "BINARY", 1
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = np.packbits(mask, bitorder="little").tobytes()
    source, derivation, segment, group = Dataset(), Dataset(), Dataset(), Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = film.SOPClassUID, film.SOPInstanceUID
    derivation.SourceImageSequence, segment.ReferencedSegmentNumber = [source], 1
    group.DerivationImageSequence, group.SegmentIdentificationSequence = [derivation], [segment]
    dataset.PerFrameFunctionalGroupsSequence = [group]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def segmented(film: Dataset, seg: Dataset) -> Dataset:
    """Frame 1 of the segmentation instead of an outline. PS3.16 TID 1410 row 13."""
    document = copy.deepcopy(asking.question(film))
    (outline,) = outlines(document)
    referenced, concept = Dataset(), Dataset()
    referenced.ReferencedSOPClassUID, referenced.ReferencedSOPInstanceUID = seg.SOPClassUID, seg.SOPInstanceUID
    referenced.ReferencedFrameNumber = 1
    concept.CodeValue, concept.CodingSchemeDesignator = "121214", "DCM"
    concept.CodeMeaning = "Referenced Segmentation Frame"
    outline.ValueType, outline.ConceptNameCodeSequence, outline.ReferencedSOPSequence = "IMAGE", [concept], [referenced]
    for keyword in ("GraphicData", "GraphicType", "ContentSequence"):
        delattr(outline, keyword)
    return document


@pytest.mark.parametrize("door", DOORS)
def test_regions_in_space_and_segments_ask_like_those_that_are_drawn(node, films, tmp_path, door):
    seg, late = segmentation(films[0]), segmentation(films[1])
    assert all(sent.ok for sent in client.send(node.peer, [asking.saved(seg, tmp_path)]))
    documents = {
        "in space": in_space(films[2]),
        "segment": segmented(films[0], seg),
        "elsewhere": in_space(films[2], space="1.2.840.8"),
        "beside": in_space(films[2], z=30.0),
        "no segmentation": segmented(films[1], late),
        "no plane": in_space(films[0]),
    }
    found = outcomes(node, door, documents, tmp_path)
    assert {name: each.reason for name, each in found.items()} == {
        "in space": "",
        "segment": "",
        "elsewhere": "region is in another frame of reference",
        "beside": "3-D region lies on no image of the SR",
        "no segmentation": f"segmentation not stored: send it first (waited {WAIT_S} s)",
        "no plane": "region is in another frame of reference",
    }
    for name, film in (("in space", films[2]), ("segment", films[0])):
        rois = reader.rois(dcmread(asking.stored_file(node.root, found[name].report_uid)))
        assert {(roi.image_uid, roi.box) for roi in rois} == {(film.SOPInstanceUID, HEART_BOX)}


# --- what viewers and toolkits wrote ---------------------------------------------------------------------------------

SEVERAL = "segmentation is of several images"
SAMPLES = {  # with the development data's own images beside them: answered, or why not
    "sr/highdicom_bounding_box.dcm": "",
    "sr/highdicom_planar_roi.dcm": "",
    "sr/ohif_arrow.dcm": "",
    "sr/ohif_circle.dcm": "",
    "sr/ohif_drawn_in_viewer.dcm": LATE,  # drawn on an image that is not among the data
    "sr/ohif_ellipse.dcm": "",
    "sr/ohif_free.dcm": "",
    "sr/ohif_rect.dcm": "",
    "sr/ohif_rect0.dcm": "",
    "sr/ohif_rect_nostats.dcm": "SR has no region",
    "dicom/dcmjs/sample-sr.dcm": LATE,
    "dicom/dcmjs/structured_report.dcm": LATE,
    "dicom/dcmqi/sr-example/sr.dcm": SEVERAL,
    "dicom/highdicom/sr_document.dcm": "",
    "dicom/highdicom/sr_document_with_multiple_groups.dcm": "",
}
BESIDE = ("sr/dx_image.dcm", "dicom/dcmqi/sr-example/seg.dcm", "dicom/highdicom/ct_image.dcm")


def srs_of(data: Path) -> set[str]:
    """Every SR of the development data that may ask."""
    with quiet_pydicom():
        paths = [path for folder in ("sr", "dicom") for path in (data / folder).rglob("*.dcm")]
        classes = {path: str(dcmread(path, specific_tags=["SOPClassUID"]).get("SOPClassUID")) for path in paths}
    return {str(path.relative_to(data)) for path, uid in classes.items() if uid in ASKING_CLASSES}


@pytest.mark.data
@pytest.mark.parametrize("door", DOORS)
def test_every_sample_is_answered_or_refused_in_words(node, data_dir, door, tmp_path):
    assert srs_of(data_dir) == SAMPLES.keys()
    list(client.send(node.peer, [data_dir / name for name in BESIDE]))
    with quiet_pydicom():
        documents = {name: dcmread(data_dir / name) for name in SAMPLES}
        for document in documents.values():  # asked anew at each door
            document.SOPInstanceUID = document.file_meta.MediaStorageSOPInstanceUID = new_uid()
        found = outcomes(node, door, documents, tmp_path)
    assert {name: each.reason for name, each in found.items()} == SAMPLES
    for name, each in found.items():
        assert (each.state, bool(each.answer)) == (("stored", True) if not SAMPLES[name] else ("failed", False)), name


@pytest.mark.data
@pytest.mark.parametrize("door", DOORS)
def test_a_key_object_selection_asks_nothing(node, data_dir, door, tmp_path):
    DOORS[door](node, [data_dir / "sr" / "kos.dcm"])
    assert asking.asked(node.root, str(dcmread(data_dir / "sr" / "kos.dcm").SOPInstanceUID)) is None
