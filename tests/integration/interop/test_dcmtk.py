"""DCMTK's programs against the node: verification, storage, queries, retrieval, and what it retired."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicomnode.dimse import client
from storage.store import Store
from tests.integration.interop import objects, programs
from tests.integration.interop.objects import PLACES, Place

pytestmark = pytest.mark.dcmtk

# How DCMTK makes a file of each transfer syntax, and how storescu is told to propose it.
SYNTAXES = {
    "1.2.840.10008.1.2": (["dcmconv", "+ti"], "-xi"),
    "1.2.840.10008.1.2.2": (["dcmconv", "+tb"], "-xb"),
    "1.2.840.10008.1.2.1.99": (["dcmconv", "+td"], "-xd"),
    "1.2.840.10008.1.2.5": (["dcmcrle"], "-xr"),
    "1.2.840.10008.1.2.4.70": (["dcmcjpeg", "+e1"], "-xs"),
    "1.2.840.10008.1.2.4.80": (["dcmcjpls"], "-xt"),
}


@pytest.fixture
def call(node, dcmtk, tmp_path):
    """One of DCMTK's programs, with the node as the peer, in the test's folder; what it printed."""

    def called(program: str, *arguments: object, check: bool = True):
        command = (dcmtk / program, "-aec", "DICOMNODE", "127.0.0.1", node.port, *arguments)
        return programs.run(*command, check=check, cwd=tmp_path)

    return called


def kept(node, uid: str) -> Path | None:
    """The node's file of an instance."""
    with Store.open(node.root) as store:
        row = store.catalog.instance(uid)
        return store.files.path(row.path) if row else None


def encoded(dcmtk: Path, place: Place, syntax: str, folder: Path) -> Path:
    """The object of a place in a transfer syntax, as DCMTK encodes it."""
    (raw,) = objects.written((place,), folder)
    (program, *options), _ = SYNTAXES[syntax]
    path = folder / f"{program}{options[0] if options else ''}.dcm"
    programs.run(dcmtk / program, *options, raw, path)
    assert dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax
    raw.unlink()
    return path


def uid_of(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def test_echoscu_repeated_on_one_association(call):
    assert call("echoscu", "--repeat", "5", "-v").stdout.count("Received Echo Response (Success)") == 5


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_storescu_is_kept_as_sent_in_every_syntax(node, dcmtk, call, tmp_path, syntax):
    path = encoded(dcmtk, Place("SCU", "scu", "scu", list(SYNTAXES).index(syntax)), syntax, tmp_path)
    call("storescu", SYNTAXES[syntax][1], path)
    file = kept(node, uid_of(path))
    assert file is not None
    assert dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax
    if syntax != "1.2.840.10008.1.2.1.99":  # another deflate stream of the same data set is as good
        assert objects.body(file) == objects.body(path)
    assert dcmread(file) == dcmread(path)


def test_dcmsend_of_a_folder_of_several_syntaxes(node, dcmtk, call, tmp_path):
    place = Place("SEND", "send", "send", 1)
    for number, syntax in enumerate(SYNTAXES):
        encoded(dcmtk, replace(place, number=number), syntax, tmp_path / "folder")
    report = tmp_path / "report.txt"
    call("dcmsend", "+sd", "+crf", report, tmp_path / "folder")
    assert f"with status SUCCESS  : {len(SYNTAXES)}" in report.read_text()
    for path in objects.received(tmp_path / "folder"):
        assert kept(node, uid_of(path)) is not None


@pytest.mark.parametrize(
    ("root", "keys", "count"),
    [
        ("-P", ["QueryRetrieveLevel=PATIENT", "PatientID=IOP*", "PatientName"], 2),
        ("-P", ["QueryRetrieveLevel=STUDY", "PatientID=IOP1", "StudyInstanceUID"], 2),
        ("-S", ["QueryRetrieveLevel=STUDY", "PatientID=IOP*", "StudyInstanceUID"], 3),
        ("-S", ["QueryRetrieveLevel=STUDY", "AccessionNumber=ACCB", "StudyInstanceUID"], 1),
        ("-S", ["QueryRetrieveLevel=SERIES", f"StudyInstanceUID={PLACES[0].study_uid}", "SeriesInstanceUID"], 2),
        (
            "-S",
            [
                "QueryRetrieveLevel=IMAGE",
                f"StudyInstanceUID={PLACES[0].study_uid}",
                f"SeriesInstanceUID={PLACES[0].series_uid}",
                "SOPInstanceUID",
            ],
            2,
        ),
        ("-S", ["QueryRetrieveLevel=STUDY", "PatientID=NOBODY", "StudyInstanceUID"], 0),
    ],
)
def test_findscu_finds_at_every_level(sent, call, tmp_path, root, keys, count):
    options = [part for key in keys for part in ("-k", key)]
    call("findscu", root, "-X", "-od", tmp_path, *options)
    matches = [dcmread(path, force=True) for path in objects.received(tmp_path)]
    assert len(matches) == count
    unique = keys[-1].partition("=")[0] if root == "-S" or "STUDY" in keys[0] else "PatientID"
    assert len({str(match.get(unique)) for match in matches}) == count


def test_findscu_with_a_query_file(sent, call, tmp_path):
    query = Dataset()
    query.SpecificCharacterSet = "ISO_IR 192"
    query.QueryRetrieveLevel = "STUDY"
    query.PatientName = "grüber*"
    query.StudyInstanceUID = query.StudyDate = query.PatientID = ""
    query.file_meta = FileMetaDataset()
    query.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    query.save_as(tmp_path / "query.dcm", implicit_vr=False, little_endian=True)
    answers = tmp_path / "answers"
    answers.mkdir()
    call("findscu", "-S", "-X", "-od", answers, tmp_path / "query.dcm")
    matches = [dcmread(path, force=True) for path in objects.received(answers)]
    assert {match.StudyInstanceUID for match in matches} == {PLACES[0].study_uid, PLACES[3].study_uid}
    assert {str(match.PatientName) for match in matches} == {"Grüber^Änne"}


def test_findscu_is_told_why_a_query_is_refused(sent, call):
    said = call("findscu", "-v", "-S", "-k", "QueryRetrieveLevel=FRAME", check=False).stdout
    assert "QueryRetrieveLevel" in said
    assert "DoesNotMatchSOPClass" in said


def test_termscu_is_refused_and_the_node_lives(node, call):
    said = call("termscu", check=False)
    assert said.returncode != 0
    assert "No Acceptable Presentation Contexts" in said.stdout
    assert node.process.poll() is None
    assert client.echo(node.peer) == 0


STUDY_A = [place.uid for place in PLACES if place.study == "a"]
A_LEVELS = [
    (["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={PLACES[0].study_uid}"], STUDY_A),
    (
        [
            "QueryRetrieveLevel=SERIES",
            f"StudyInstanceUID={PLACES[0].study_uid}",
            f"SeriesInstanceUID={PLACES[0].series_uid}",
        ],
        STUDY_A[:2],
    ),
    (
        [
            "QueryRetrieveLevel=IMAGE",
            f"StudyInstanceUID={PLACES[0].study_uid}",
            f"SeriesInstanceUID={PLACES[0].series_uid}",
            f"SOPInstanceUID={PLACES[1].uid}",
        ],
        STUDY_A[1:2],
    ),
]


def keys_of(keys: list[str]) -> list[str]:
    return [part for key in keys for part in ("-k", key)]


def assert_bits(folder: Path, sent: list[Path], uids: list[str]) -> None:
    """Exactly these objects came, each encoded as it was sent to the node."""
    originals = objects.bodies(sent)
    assert objects.bodies(objects.received(folder)) == {uid: originals[uid] for uid in uids}


@pytest.mark.parametrize(("keys", "uids"), A_LEVELS)
def test_getscu_gets_what_was_stored_bit_for_bit(sent, call, tmp_path, keys, uids):
    call("getscu", "-S", "+B", "-od", tmp_path, *keys_of(keys))
    assert_bits(tmp_path, sent, uids)


def test_getscu_gets_a_patient(sent, call, tmp_path):
    call("getscu", "-P", "+B", "-od", tmp_path, *keys_of(["QueryRetrieveLevel=PATIENT", "PatientID=IOP1"]))
    assert_bits(tmp_path, sent, [place.uid for place in PLACES if place.patient == "IOP1"])


@pytest.mark.parametrize(("keys", "uids"), A_LEVELS)
def test_movescu_moves_to_its_own_port(sent, call, ports, tmp_path, keys, uids):
    # With +B it writes to where it runs, whatever -od says.
    call("movescu", "-S", "+B", "+P", ports["MOVESCU"], *keys_of(keys))
    assert_bits(tmp_path, sent, uids)


def test_movescu_to_an_unknown_destination_is_refused(sent, call):
    said = call("movescu", "-v", "-S", "-aem", "NOWHERE", *keys_of(A_LEVELS[0][0]), check=False).stdout
    assert "MoveDestinationUnknown" in said


def test_movescu_to_a_destination_that_does_not_listen_is_told_how_many_failed(sent, call):
    said = call("movescu", "-d", "-S", "-aem", "DCMSEND", *keys_of(A_LEVELS[0][0]), check=False).stdout
    final = said[said.index("Final Move Response") :]
    assert re.search(r"Failed Suboperations +: 3", final), final
    assert re.search(r"Completed Suboperations +: (0|none)", final), final


# What storescp accepts, and in which syntax a JPEG Lossless object then arrives.
ACCEPTED = {
    "+xa": "1.2.840.10008.1.2.4.70",
    "+xs": "1.2.840.10008.1.2.4.70",
    "+x=": "1.2.840.10008.1.2.1",
    "+xi": "1.2.840.10008.1.2",
}


@pytest.fixture(scope="module")
def compressed(node, dcmtk, tmp_path_factory) -> Path:
    """A JPEG Lossless object in the node."""
    folder = tmp_path_factory.mktemp("compressed")
    path = encoded(dcmtk, Place("JPEG", "jpeg", "jpeg", 1), "1.2.840.10008.1.2.4.70", folder)
    programs.run(dcmtk / "storescu", "-aec", "DICOMNODE", "-xs", "127.0.0.1", node.port, path)
    return path


@pytest.mark.parametrize("flag", ACCEPTED)
def test_a_destination_gets_a_syntax_that_it_accepts(compressed, dcmtk, call, ports, tmp_path, flag):
    folder = tmp_path / "received"
    folder.mkdir()
    port = ports["STORESCP"]
    storescp = [dcmtk / "storescp", "-aet", "STORESCP", "+B", flag, "-od", folder, port]
    study = Place("JPEG", "jpeg", "jpeg", 1).study_uid
    with programs.serving(port, tmp_path / "storescp.log", *storescp):
        keys = keys_of(["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}"])
        call("movescu", "-S", "-aem", "STORESCP", *keys)
    (arrived,) = objects.received(folder)
    found, original = dcmread(arrived), dcmread(compressed)
    assert found.file_meta.TransferSyntaxUID == ACCEPTED[flag]
    assert (found.pixel_array == original.pixel_array).all()
    if ACCEPTED[flag] == original.file_meta.TransferSyntaxUID:
        assert objects.body(arrived) == objects.body(compressed)
