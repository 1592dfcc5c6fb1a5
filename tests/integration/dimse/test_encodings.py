"""One film in every encoding there is, stored by C-STORE and indexed: the same picture gives the same vectors."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import convert_color_space
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dicomnode.demo import films
from dicomnode.dimse import client
from dicomnode.quiet import quiet_pydicom
from storage.store import Store
from tests import nodes

pytestmark = pytest.mark.dcmtk
ALIKE = 0.99  # cosine
Change = Callable[[Dataset], None]


def levels(dataset: Dataset) -> np.ndarray:
    """(rows, columns) uint16, 12 bits, of the film as it was drawn."""
    return np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)


def cells(dataset: Dataset, values: np.ndarray, bits: int, high: int | None = None) -> None:
    """Other cells for the same picture: its window, which is in values, goes."""
    dataset.BitsAllocated, dataset.BitsStored = 8 * values.dtype.itemsize, bits
    dataset.HighBit = bits - 1 if high is None else high
    dataset.PixelData = values.tobytes()
    del dataset.WindowCenter, dataset.WindowWidth


def one_bit_less(dataset: Dataset) -> None:
    cells(dataset, (levels(dataset) >> 1).astype("<u2"), 11)


def eight_bits(dataset: Dataset) -> None:
    cells(dataset, (levels(dataset) >> 4).astype("u1"), 8)
    dataset["PixelData"].VR = "OB"


def sixteen_bits(dataset: Dataset) -> None:
    cells(dataset, (levels(dataset).astype("<u2") << 4), 16)


def thirty_two_bits(dataset: Dataset) -> None:
    cells(dataset, levels(dataset).astype("<u4") << 20, 32)


def signed(dataset: Dataset) -> None:
    cells(dataset, (levels(dataset).astype("<i4") - 2048).astype("<i2"), 12)
    dataset.PixelRepresentation = 1


def signed_with_overlay_bits(dataset: Dataset) -> None:
    values = (levels(dataset).astype("<i4") - 2048) & 0xFFF
    overlay = np.random.default_rng(0).integers(0, 16, values.shape) << 12
    cells(dataset, (values | overlay).astype("<u2"), 12)
    dataset.PixelRepresentation = 1


def at_the_top_of_the_cell(dataset: Dataset) -> None:
    cells(dataset, (levels(dataset) << 4) | 5, 12, high=15)


def inverted(dataset: Dataset) -> None:
    cells(dataset, 4095 - levels(dataset), 12)
    dataset.PhotometricInterpretation, dataset.PresentationLUTShape = "MONOCHROME1", "INVERSE"


def three_channels(dataset: Dataset) -> None:
    eight_bits(dataset)
    grey = np.frombuffer(dataset.PixelData, "u1").reshape(dataset.Rows, dataset.Columns)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.PixelData = np.repeat(grey[..., None], 3, axis=2).tobytes()


def planes(dataset: Dataset) -> None:
    eight_bits(dataset)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 1
    dataset.PixelData *= 3


def ybr(dataset: Dataset) -> None:
    three_channels(dataset)
    rgb = np.frombuffer(dataset.PixelData, "u1").reshape(dataset.Rows, dataset.Columns, 3)
    dataset.PhotometricInterpretation = "YBR_FULL"
    dataset.PixelData = convert_color_space(rgb, "RGB", "YBR_FULL").tobytes()


def palette(dataset: Dataset) -> None:
    eight_bits(dataset)
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    entries = (np.arange(256, dtype="<u2") * 257).astype("<u2").tobytes()
    for name in ("Red", "Green", "Blue"):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", entries)


def by_pydicom(syntax: str, **how: object) -> Change:
    def change(dataset: Dataset) -> None:
        dataset.compress(syntax, generate_instance_uid=False, **how)

    return change


def by_openjph(syntax: str, **how: object) -> Change:
    def change(dataset: Dataset) -> None:
        frame = imagecodecs.htj2k_encode(levels(dataset), **how)
        dataset.file_meta.TransferSyntaxUID, dataset.PixelData = syntax, encapsulate([frame])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True

    return change


def plain(_: Dataset) -> None:
    return


# name: what is done to the film, then DCMTK's program and options, then the transfer syntax that comes of it.
ENCODINGS: dict[str, tuple[list[Change], list[str], str]] = {
    "explicit": ([plain], [], ExplicitVRLittleEndian),
    "implicit": ([], ["dcmconv", "+ti"], ImplicitVRLittleEndian),
    "big endian": ([], ["dcmconv", "+tb"], ExplicitVRBigEndian),
    "deflated": ([], ["dcmconv", "+td"], DeflatedExplicitVRLittleEndian),
    "rle": ([], ["dcmcrle"], RLELossless),
    "jpeg baseline": ([eight_bits], ["dcmcjpeg", "+un", "+eb"], JPEGBaseline8Bit),
    "jpeg extended": ([], ["dcmcjpeg", "+un", "+ee"], JPEGExtended12Bit),
    "jpeg lossless": ([], ["dcmcjpeg", "+el"], JPEGLossless),
    "jpeg lossless sv1": ([], ["dcmcjpeg", "+e1"], JPEGLosslessSV1),
    "jpeg lossless 16 bits": ([sixteen_bits], ["dcmcjpeg", "+e1"], JPEGLosslessSV1),
    "jpeg-ls": ([], ["dcmcjpls", "+el"], JPEGLSLossless),
    "jpeg-ls near": ([], ["dcmcjpls", "+un", "+en", "+md", "3"], JPEGLSNearLossless),
    "jpeg 2000 lossless": ([by_pydicom(JPEG2000Lossless)], [], JPEG2000Lossless),
    "jpeg 2000": ([by_pydicom(JPEG2000, j2k_cr=[10])], [], JPEG2000),
    "htj2k lossless": ([by_openjph(HTJ2KLossless)], [], HTJ2KLossless),
    "htj2k lossless rpcl": ([by_openjph(HTJ2KLosslessRPCL)], [], HTJ2KLosslessRPCL),
    "htj2k": ([by_openjph(HTJ2K, reversible=False, level=1e-4)], [], HTJ2K),
    "8 bits": ([eight_bits], [], ExplicitVRLittleEndian),
    "11 bits": ([one_bit_less], [], ExplicitVRLittleEndian),
    "16 bits": ([sixteen_bits], [], ExplicitVRLittleEndian),
    "32 bits": ([thirty_two_bits], [], ExplicitVRLittleEndian),
    "signed": ([signed], [], ExplicitVRLittleEndian),
    "signed jpeg-ls": ([signed, by_pydicom(JPEGLSLossless)], [], JPEGLSLossless),
    "signed jpeg 2000": ([signed, by_pydicom(JPEG2000Lossless)], [], JPEG2000Lossless),
    "signed with overlay bits": ([signed_with_overlay_bits], [], ExplicitVRLittleEndian),
    "high bit 15": ([at_the_top_of_the_cell], [], ExplicitVRLittleEndian),
    "monochrome1": ([inverted], [], ExplicitVRLittleEndian),
    "rgb": ([three_channels], [], ExplicitVRLittleEndian),
    "rgb planes": ([planes], [], ExplicitVRLittleEndian),
    "rgb rle": ([three_channels], ["dcmcrle"], RLELossless),
    "rgb jpeg": ([three_channels], ["dcmcjpeg", "+un", "+eb", "+s2"], JPEGBaseline8Bit),
    "rgb jpeg 2000": ([three_channels, by_pydicom(JPEG2000Lossless)], [], JPEG2000Lossless),
    "ybr": ([ybr], [], ExplicitVRLittleEndian),
    "palette": ([palette], [], ExplicitVRLittleEndian),
    "palette rle": ([palette], ["dcmcrle"], RLELossless),
}


def uid(name: str) -> str:
    return f"1.2.826.0.1.3680043.9.1.{list(ENCODINGS).index(name) + 1}"


def encoded(film: Path, name: str, folder: Path, dcmtk: Path) -> Path:
    """The film in one of the encodings, under a UID of its own."""
    changes, program, syntax = ENCODINGS[name]
    dataset, path = dcmread(film), folder / f"{name}.dcm"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid(name)
    for change in changes:
        change(dataset)
    dataset.save_as(path, enforce_file_format=True)
    if program:
        subprocess.run([dcmtk / program[0], *program[1:], path, path], check=True, capture_output=True)
    with quiet_pydicom():
        packed = dcmread(path, stop_before_pixels=True)
    assert (packed.file_meta.TransferSyntaxUID, packed.SOPInstanceUID) == (syntax, uid(name)), name
    return path


@pytest.fixture(scope="module")
def vectors(tmp_path_factory, dcmtk) -> dict[str, dict[tuple[str, int], np.ndarray]]:
    """Of each encoding, its regions' vectors by projection and anatomy, as a node stored them."""
    folder = tmp_path_factory.mktemp("encodings")
    (film,) = films.drawn(folder, 1, lambda *_: None)
    paths = [encoded(film, name, folder, dcmtk) for name in ENCODINGS]
    root = folder / "root"
    with nodes.running_node(root, "--workers", "1") as node:
        with quiet_pydicom():
            assert [sent for sent in client.send(node.peer, paths) if not sent.ok] == []
        nodes.dicomnode("wait", "--root", root, "--timeout", "120")
    with Store.open(root) as store:
        assert store.jobs.failures() == []
        return {name: stored(store, uid(name)) for name in ENCODINGS}


def stored(store: Store, sop_instance_uid: str) -> dict[tuple[str, int], np.ndarray]:
    live, instance = store.generations.live(), store.catalog.instance(sop_instance_uid)
    return {
        (projection, region.anatomy): store.regions.vector(region.id, projection).astype(np.float32)
        for projection in live.model.projections
        for region in store.regions.of_instance(live.id, instance.id)
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ENCODINGS)
def test_the_same_picture_gives_the_same_vectors(vectors, name):
    first, found = vectors["explicit"], vectors[name]
    assert len(first) > 20
    assert found.keys() == first.keys()
    cosines = {key: float(found[key] @ first[key]) for key in first}
    assert min(cosines.values()) > ALIKE, min(cosines, key=cosines.__getitem__)
