"""WADO-RS by another people's client and by raw requests: files, metadata, frames, values and pictures."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless

from dicomnode.dimse import client
from tests.integration.web.conftest import SIDE, path_of, uids_of

RELATED = 'multipart/related; type="{}"'
OHIF_FRAMES = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
OHIF_METADATA = "application/dicom+json, multipart/related; type=application/octet-stream; transfer-syntax=*"


def parts(answer) -> list[tuple[str, bytes]]:
    """Content-Type and bytes of each part."""
    assert answer.status_code == 200, answer.text
    boundary = answer.headers["content-type"].rpartition("boundary=")[2]
    found = []
    for part in answer.content.split(f"--{boundary}".encode())[1:-1]:
        head, _, body = part.partition(b"\r\n\r\n")
        types = [line[14:] for line in head.decode().split("\r\n") if line.startswith("Content-Type: ")]
        found.append((types[0], body[:-2]))
    assert answer.content.endswith(f"--{boundary}--\r\n".encode())
    return found


def pixels(dataset: Dataset) -> np.ndarray:
    return dataset.pixel_array.reshape(-1, SIDE, SIDE)


def test_instances_series_and_studies_come_in_plain_encoding_unless_asked_otherwise(dicomweb, films):
    study, series, instance = uids_of(films.j2k)
    assert dicomweb.retrieve_instance(study, series, instance).file_meta.TransferSyntaxUID == JPEG2000Lossless
    plain = (("application/dicom", str(ExplicitVRLittleEndian)),)
    for (read,) in (dicomweb.retrieve_series(study, series, plain), dicomweb.retrieve_study(study, plain)):
        assert read.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert np.array_equal(pixels(read), pixels(films.j2k))


def test_as_stored_is_byte_for_byte(http, films):
    answer = http.get(
        path_of(films.j2k), headers={"Accept": RELATED.format("application/dicom") + "; transfer-syntax=*"}
    )
    ((kind, body),) = parts(answer)
    assert kind == f"application/dicom; transfer-syntax={JPEG2000Lossless}"
    assert dcmread(BytesIO(body)).PixelData == films.j2k.PixelData
    alone = http.get(path_of(films.j2k), headers={"Accept": "application/dicom; transfer-syntax=*"})
    assert alone.content == body
    again = http.get(
        path_of(films.j2k), headers={"Accept": "application/dicom; transfer-syntax=*", "Range": "bytes=128-131"}
    )
    assert (again.status_code, again.content) == (206, b"DICM")


@pytest.mark.parametrize(
    ("accept", "syntax"),
    [
        ("*/*", JPEG2000Lossless),
        (RELATED.format("application/dicom"), ExplicitVRLittleEndian),
        ("multipart/related; type=application/dicom", ExplicitVRLittleEndian),
        ("multipart/related;type=application/dicom;boundary=x;transfer-syntax=*", JPEG2000Lossless),
        (RELATED.format("application/dicom") + f"; transfer-syntax={ImplicitVRLittleEndian}", ImplicitVRLittleEndian),
        ("text/html, multipart/related; type=application/dicom; q=0.1", ExplicitVRLittleEndian),
    ],
)
def test_accept_headers_that_clients_send(http, films, accept, syntax):
    ((kind, body),) = parts(http.get(path_of(films.j2k), headers={"Accept": accept}))
    assert kind.endswith(f"transfer-syntax={syntax}")
    read = dcmread(BytesIO(body))
    assert read.file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(pixels(read), pixels(films.j2k))


@pytest.mark.parametrize(
    "accept", ["image/gif", RELATED.format("application/dicom") + "; transfer-syntax=1.2.840.10008.1.2.4.50"]
)
def test_what_cannot_be_made_is_not_acceptable(http, films, accept):
    assert http.get(path_of(films.plain), headers={"Accept": accept}).status_code == 406


def test_metadata_holds_everything_but_bulk(dicomweb, http, films):
    found = dicomweb.retrieve_instance_metadata(*uids_of(films.several))
    read = Dataset.from_json(found, bulk_data_uri_handler=lambda uri: b"")
    (raw,) = http.get(path_of(films.several) + "/metadata", headers={"Accept": OHIF_METADATA}).json()
    assert (read.Rows, read.NumberOfFrames, str(read.PatientName)) == (SIDE, 3, str(films.several.PatientName))
    assert raw["00110010"]["Value"] == ["MAKER 1"]
    assert raw["00111001"] == {"vr": "LO", "Value": ["nur hier"]}
    assert raw["7FE00010"]["vr"] == "OW"
    assert raw["7FE00010"]["BulkDataURI"].endswith(path_of(films.several) + "/bulkdata/7FE00010")
    assert "InlineBinary" not in raw["00111002"]
    assert len(dicomweb.retrieve_series_metadata(*uids_of(films.several)[:2])) == 1
    assert len(dicomweb.retrieve_study_metadata(films.several.StudyInstanceUID)) == 1
    as_stored = http.get(path_of(films.j2k) + "/metadata").json()[0]["7FE00010"]
    assert as_stored["vr"] == "OB"


def test_metadata_as_xml(http, films):
    ((kind, body),) = parts(http.get(path_of(films.script) + "/metadata", headers={"Accept": "application/dicom+xml"}))
    assert kind == "application/dicom+xml"
    assert b"&lt;script&gt;" in body
    assert b"<script>" not in body


def test_bulk_is_where_the_metadata_says(dicomweb, http, films):
    (raw,) = http.get(path_of(films.several) + "/metadata").json()
    (value,) = dicomweb.retrieve_bulkdata(raw["00111002"]["BulkDataURI"])
    assert value == bytes(range(256)) * 300
    (value,) = dicomweb.retrieve_bulkdata(raw["7FE00010"]["BulkDataURI"])
    assert value == films.several.PixelData
    (compressed,) = http.get(path_of(films.rle) + "/metadata").json()
    frames = dicomweb.retrieve_bulkdata(compressed["7FE00010"]["BulkDataURI"])
    assert frames == list(generate_frames(films.rle.PixelData, number_of_frames=3))
    octets = (("application/octet-stream", str(ExplicitVRLittleEndian)),)
    (value,) = dicomweb.retrieve_bulkdata(compressed["7FE00010"]["BulkDataURI"], octets)
    assert value == pixels(films.rle).tobytes()


@pytest.mark.parametrize("which", ["several", "rle", "j2k", "plain"])
def test_frames_are_decoded_for_who_takes_octets(dicomweb, films, which):
    film = getattr(films, which)
    count = int(film.get("NumberOfFrames") or 1)
    found = dicomweb.retrieve_instance_frames(
        *uids_of(film), list(range(count, 0, -1)), (("application/octet-stream", str(ExplicitVRLittleEndian)),)
    )
    assert found == [frame.tobytes() for frame in pixels(film)[::-1]]


@pytest.mark.parametrize(
    ("which", "kind"), [("j2k", "image/jp2"), ("rle", "image/dicom-rle"), ("plain", "application/octet-stream")]
)
def test_frames_go_as_stored_for_who_takes_anything(http, dicomweb, films, which, kind):
    film = getattr(films, which)
    stored = generate_frames(film.PixelData, number_of_frames=3 if which == "rle" else 1)
    wanted = film.PixelData if which == "plain" else next(stored)
    assert dicomweb.retrieve_instance_frames(*uids_of(film), [1]) == [wanted]
    syntax = film.file_meta.TransferSyntaxUID
    ((as_stored, body),) = parts(http.get(path_of(film) + "/frames/1"))
    assert (as_stored, body) == (f"{kind}; transfer-syntax={syntax}", wanted)
    ((ohif, body),) = parts(http.get(path_of(film) + "/frames/1", headers={"Accept": OHIF_FRAMES}))
    assert body == wanted
    assert ohif.endswith(f"; transfer-syntax={syntax}")


def test_one_frame_comes_alone_where_no_multipart_is_taken(http, films):
    answer = http.get(path_of(films.rle) + "/frames/2", headers={"Accept": "application/octet-stream"})
    assert answer.content == pixels(films.rle)[1].tobytes()
    both = http.get(path_of(films.rle) + "/frames/1,2", headers={"Accept": "application/octet-stream"})
    assert both.status_code == 406


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("/frames/0", 400), ("/frames/4", 404), ("/frames/x", 400), ("/frames/1,,2", 400), ("/frames/99999999", 400),
        ("/frames/4/rendered", 404), ("/frames/1,2/rendered", 400), ("/bulkdata/00100011", 404), ("/bulkdata/xyz", 400),
        ("/rendered?viewport=0,0", 400), ("/rendered?viewport=9999,1", 400), ("/rendered?viewport=a,b", 400),
        ("/rendered?window=1", 400), ("/rendered?window=1,2,cubic", 400), ("/rendered?window=nan,2", 400),
        ("/rendered?quality=0", 400), ("/rendered?quality=101", 400), ("/nothing", 404),
    ],
)  # fmt: skip
def test_what_there_is_not_is_said(http, films, end, status):
    answer = http.get(path_of(films.several) + end)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def picture(answer) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(BytesIO(answer.content)))


def test_pictures_show_what_is_stored(http, dicomweb, films):
    shown = picture(http.get(path_of(films.plain) + "/rendered", headers={"Accept": "image/png"}))
    stored = pixels(films.plain)[0].astype(float)
    assert shown.shape == (SIDE, SIDE)
    assert np.corrcoef(shown.ravel(), stored.ravel())[0, 1] > 0.99
    jpeg = dicomweb.retrieve_instance_rendered(*uids_of(films.j2k), media_types=("image/jpeg",))
    assert Image.open(BytesIO(jpeg)).size == (SIDE, SIDE)
    frame = http.get(path_of(films.rle) + "/frames/2/rendered", headers={"Accept": "image/*"})
    assert frame.headers["content-type"] == "image/jpeg"


def test_viewport_window_and_quality_are_kept_to(http, films):
    url = path_of(films.plain) + "/rendered"
    small = picture(http.get(f"{url}?viewport=32,16"))
    assert small.shape == (16, 16)
    square = picture(http.get(f"{url}?viewport=20,20,20,20,10,10", headers={"Accept": "image/png"}))
    assert square.shape == (20, 20)
    assert np.ptp(square) == 0
    mirrored = picture(http.get(f"{url}?viewport=64,64,0,0,-64,64", headers={"Accept": "image/png"}))
    whole = picture(http.get(url, headers={"Accept": "image/png"}))
    assert np.array_equal(mirrored, whole[:, ::-1])
    dark = picture(http.get(f"{url}?window=3990,10,linear", headers={"Accept": "image/png"}))
    assert (dark[20:30, 20:30] > 200).all()
    assert dark[40:, :60].max() == 0
    coarse, fine = (http.get(f"{url}?quality={quality}").content for quality in (5, 100))
    assert len(coarse) < len(fine)


def test_thumbnails_of_every_level_and_the_same_one_is_not_sent_twice(http, films):
    study, series, _ = uids_of(films.j2k)
    for path in (f"/dicom-web/studies/{study}", f"/dicom-web/studies/{study}/series/{series}", path_of(films.j2k)):
        answer = http.get(f"{path}/thumbnail")
        assert picture(answer).shape == (128, 128)
        again = http.get(f"{path}/thumbnail", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert http.get(f"/dicom-web/studies/{study}/rendered").headers["content-type"].startswith("multipart/related")


def test_what_is_no_image_has_no_picture(http, node, data_dir):
    report = next(path for path in sorted((data_dir / "sr").glob("*.dcm")) if "Rows" not in dcmread(path))
    assert all(sent.ok for sent in client.send(node.peer, [report]))
    stored = dcmread(report)
    assert http.get(path_of(stored) + "/rendered").status_code == 406
    assert http.get(path_of(stored) + "/thumbnail").status_code == 406
    (metadata,) = http.get(path_of(stored) + "/metadata").json()
    assert metadata["0040A730"]["Value"]


@pytest.mark.parametrize(
    "path",
    [
        "/dicom-web/studies/1.2.3", "/dicom-web/studies/1.2.3/metadata", "/dicom-web/studies/1.2.3/thumbnail",
        "/dicom-web/studies/1.2.3/series/1.2/instances/1.2/frames/1",
    ],
)  # fmt: skip
def test_what_is_not_stored_is_not_found(http, path):
    assert http.get(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/dicom-web/studies/..%2f..%2fetc", "/dicom-web/studies/%2e%2e", "/dicom-web/studies/1.2%00",
        "/dicom-web/studies/" + "1" * 65,
        "/dicom-web/studies/1.2/series/..%5c..", "/dicom-web/studies/%F0%9F%92%A9",
        "/dicom-web/studies/1.2/../../../etc/passwd",
        "/dicom-web//studies", "/dicom-web/studies/", "/%00", "/dicom-web/studies/1.2.3%0d%0aX-Evil: 1",
    ],
)  # fmt: skip
def test_paths_hold_uids_or_nothing(node, path):
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=10)
    connection.putrequest("GET", path.replace(" ", "%20"), skip_host=False)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status in {400, 404}
    assert answer.getheader("X-Evil") is None
    assert b"passwd" not in answer.read()
    connection.close()
