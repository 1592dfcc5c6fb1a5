"""Transcoding: the same attributes and pixels in every uncompressed transfer syntax; what cannot be is said."""

import os
import signal
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.errors import DecodeError
from dicomnode.pixels import transcode
from dicomnode.pixels.eligibility import DecodeLimits
from dicomnode.settings import LogSettings
from dicomnode.workers.transcoder import TranscoderProcess, TranscoderSettings

LIMITS = DecodeLimits()


def film():
    pixels = np.random.default_rng(3).integers(0, 4096, (33, 35), np.uint16)
    dataset = dx_dataset(pixels, FilmFacts("P", "Müller^Jörg", "F", "19600101", "20230101", seed="transcode"))
    dataset.add_new(0x00110010, "LO", "SOMEBODY")
    dataset.add_new(0x00111001, "OB", b"\1\2\3\4")
    dataset.add_new(0x00111002, "UL", 0x01020304)
    dataset.SmallestImagePixelValue = 7
    dataset.PixelAspectRatio = ["1", "2"]
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedFrameNumber = "1.2.3", [1, 2]
    dataset.ReferencedImageSequence = Sequence([item])
    dataset.RealWorldValueMappingSequence = Sequence([Dataset()])
    dataset.RealWorldValueMappingSequence[0].RealWorldValueSlope = 1.5
    return dataset


def written(dataset, path: Path, syntax) -> Path:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, enforce_file_format=True, implicit_vr=syntax.is_implicit_VR, little_endian=True)
    return path


def read(data: bytes, syntax) -> Dataset:
    plain = zlib.decompress(data, -zlib.MAX_WBITS) if syntax.is_deflated else data
    return read_dataset(BytesIO(plain), syntax.is_implicit_VR, syntax.is_little_endian)


def transcoded(path: Path, syntax) -> bytes:
    target = BytesIO()
    assert transcode.transcode(path, target, syntax, LIMITS) == len(target.getvalue())
    assert len(target.getvalue()) % 2 == 0
    return target.getvalue()


@pytest.mark.parametrize("source", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("target", transcode.TARGETS)
def test_every_attribute_goes_over(tmp_path, source, target):
    dataset = film()
    there = read(transcoded(written(dataset, tmp_path / "film.dcm", source), target), target)
    assert sorted(there.keys()) == sorted(dataset.keys())
    assert str(there.PatientName) == "Müller^Jörg"
    assert there.SmallestImagePixelValue == 7
    assert there.RealWorldValueMappingSequence[0].RealWorldValueSlope == 1.5
    assert there.ReferencedImageSequence[0].ReferencedFrameNumber == [1, 2]
    assert there[0x00111001].value == b"\1\2\3\4"
    swapped = np.frombuffer(there.PixelData, "<u2" if target.is_little_endian else ">u2")
    assert np.array_equal(swapped, np.frombuffer(dataset.PixelData, "<u2"))


def test_there_and_back_is_the_same_bytes(tmp_path):
    path = written(film(), tmp_path / "film.dcm", ExplicitVRLittleEndian)
    once = transcoded(path, ExplicitVRLittleEndian)
    meta = dcmread(path).file_meta
    assert once == path.read_bytes()[128 + 4 + 12 + meta.FileMetaInformationGroupLength :]


def test_texts_that_nobody_can_read_stay_as_they_are(tmp_path):
    dataset = film()
    path = written(dataset, tmp_path / "film.dcm", ExplicitVRLittleEndian)
    path.write_bytes(path.read_bytes().replace("Müller".encode(), b"M\xff\xfe\x80ler"[:7].ljust(7, b"\xff")))
    assert b"M\xff\xfe\x80" in transcoded(path, ImplicitVRLittleEndian)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_pixels_come_out_and_what_describes_them_changes(tmp_path, syntax):
    dataset = film()
    wanted = dataset.PixelData
    dataset.compress(syntax, encoding_plugin="pylibjpeg", generate_instance_uid=False, encapsulate_ext=True)
    assert "ExtendedOffsetTable" in dataset
    path = tmp_path / "film.dcm"
    dataset.save_as(path, enforce_file_format=True)
    there = read(transcoded(path, ExplicitVRLittleEndian), ExplicitVRLittleEndian)
    assert there.PixelData == wanted + b"\0" * (len(wanted) % 2)
    assert "ExtendedOffsetTable" not in there
    assert there.SOPInstanceUID == dataset.SOPInstanceUID


def test_colour_becomes_rgb(tmp_path):
    """JPEG baseline with subsampled chrominance, as ultrasound machines and cameras write it."""
    shades = np.linspace(0, 255, 64, dtype=np.uint8)
    colours = np.stack(np.broadcast_arrays(shades[:, None], shades[None, :], np.uint8(90)), axis=-1)
    stream = BytesIO()
    Image.fromarray(colours).save(stream, "JPEG", quality=95, subsampling="4:2:2")
    dataset = film()
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PlanarConfiguration = 64, 64, 3, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PhotometricInterpretation, dataset.LossyImageCompression = "YBR_FULL_422", "01"
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].VR = "OB"
    path = written(dataset, tmp_path / "colour.dcm", JPEGBaseline8Bit)
    there = read(transcoded(path, ImplicitVRLittleEndian), ImplicitVRLittleEndian)
    assert (there.PhotometricInterpretation, there.PlanarConfiguration, there.SamplesPerPixel) == ("RGB", 0, 3)
    assert there.LossyImageCompression == "01"
    decoded = np.frombuffer(there.PixelData, np.uint8).reshape(64, 64, 3).astype(int)
    assert np.abs(decoded - colours).max() < 24
    assert np.abs(decoded - colours).mean() < 3


def test_a_value_too_long_for_its_vr_goes_as_unknown(tmp_path):
    """PS3.5 6.2.2."""
    dataset = film()
    dataset.ImageComments = ""
    dataset.add_new(0x00280301, "CS", "\\".join(["NO"] * 30_000))
    path = written(dataset, tmp_path / "long.dcm", ImplicitVRLittleEndian)
    data = transcoded(path, ExplicitVRLittleEndian)
    assert b"\x28\x00\x01\x03UN\0\0" in data
    assert data.count(b"NO\\") == 29_999


@pytest.mark.parametrize(
    "limits", [DecodeLimits(maximum_pixels=100), DecodeLimits(maximum_bytes=100), DecodeLimits(maximum_file_bytes=100)]
)
def test_what_is_over_the_limits_is_not_decoded(tmp_path, limits):
    dataset = film()
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    with pytest.raises(DecodeError, match="over"):
        transcode.transcode(tmp_path / "film.dcm", BytesIO(), ExplicitVRLittleEndian, limits)


def test_a_frame_that_claims_another_size_is_not_decoded(tmp_path):
    dataset = film()
    dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    dataset.Rows = 34
    dataset.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    with pytest.raises(DecodeError, match="claims another size"):
        transcode.transcode(tmp_path / "film.dcm", BytesIO(), ExplicitVRLittleEndian, LIMITS)


def test_nothing_is_compressed(tmp_path):
    path = written(film(), tmp_path / "film.dcm", ExplicitVRLittleEndian)
    with pytest.raises(DecodeError, match="nothing is transcoded to"):
        transcode.transcode(path, BytesIO(), RLELossless, LIMITS)


def test_the_process_survives_what_is_no_file_and_is_replaced_when_it_dies(tmp_path):
    path = written(film(), tmp_path / "film.dcm", ExplicitVRLittleEndian)
    (tmp_path / "garbage.dcm").write_bytes(b"\xff" * 500)
    process = TranscoderProcess(TranscoderSettings(LIMITS, LogSettings(level="error")))
    target = tmp_path / "target"
    try:
        with pytest.raises(DecodeError):
            process.transcode(tmp_path / "garbage.dcm", target, ImplicitVRLittleEndian)
        assert process.transcode(path, target, ImplicitVRLittleEndian) == target.stat().st_size
        pid = process._child.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # dead, and left for its parent to see
        assert process.transcode(path, target, ExplicitVRBigEndian) == target.stat().st_size
    finally:
        process.stop()


def test_a_child_is_started_once_and_not_after_the_stop(tmp_path):
    path, target = written(film(), tmp_path / "film.dcm", DeflatedExplicitVRLittleEndian), tmp_path / "target"
    process = TranscoderProcess(TranscoderSettings(LIMITS, LogSettings(level="error")))
    try:
        process._child.start()
        pid = process._child.pid
        process._child.start()
        assert process.transcode(path, target, ImplicitVRLittleEndian) == target.stat().st_size
        assert process._child.pid == pid
    finally:
        process.stop()
    process._child.start()
    assert not process._child.alive


def test_a_child_that_takes_too_long_is_given_up(tmp_path):
    path = written(film(), tmp_path / "film.dcm", DeflatedExplicitVRLittleEndian)
    process = TranscoderProcess(TranscoderSettings(LIMITS, LogSettings(level="error")), timeout_s=0.001)
    try:
        with pytest.raises(DecodeError, match="not transcoded in time"):
            process.transcode(path, tmp_path / "target", ImplicitVRLittleEndian)
    finally:
        process.stop()
