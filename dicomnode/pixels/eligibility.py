"""Eligibility: the header of a stored instance in; nothing out when it may be a frontal chest film, else the reason.

Reasons are a closed list without patient data, so that an administrator can count them. A detail names the element
and the value that decided, and only for elements whose values are defined terms.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydicom.dataset import Dataset

from dicomnode.codes import codes_in
from dicomnode.errors import NotIndexable
from dicomnode.quiet import quiet_pydicom
from dicomnode.settings import IngestSettings

_CR: Final = "1.2.840.10008.5.1.4.1.1.1"  # Computed Radiography Image Storage
_DX: Final = "1.2.840.10008.5.1.4.1.1.1.1"  # Digital X-Ray Image Storage - For Presentation
_DX_RAW: Final = "1.2.840.10008.5.1.4.1.1.1.1.1"  # - For Processing
_SC: Final = "1.2.840.10008.5.1.4.1.1.7"  # Secondary Capture Image Storage
_SC_BYTE: Final = "1.2.840.10008.5.1.4.1.1.7.2"  # Multi-frame Grayscale Byte Secondary Capture
_SC_WORD: Final = "1.2.840.10008.5.1.4.1.1.7.3"  # Multi-frame Grayscale Word Secondary Capture
_SC_COLOUR: Final = "1.2.840.10008.5.1.4.1.1.7.4"  # Multi-frame True Color Secondary Capture: it may be grey in fact
FILM_CLASSES: Final = frozenset({_CR, _DX, _DX_RAW})
CAPTURE_CLASSES: Final = frozenset({_SC, _SC_BYTE, _SC_WORD, _SC_COLOUR})

GREYSCALE: Final = frozenset({"MONOCHROME1", "MONOCHROME2"})
PALETTE: Final = "PALETTE COLOR"
COLOURS: Final = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})  # PS3.3 C.7.6.3.1.2


class Reason(StrEnum):
    """Why a stored instance is no picture for the models. Values are stored: never reword, only add."""

    REPORT = "structured report"
    KEY_OBJECTS = "key object selection"
    PRESENTATION_STATE = "presentation state"
    SEGMENTATION = "segmentation"
    NOT_A_FILM = "storage class holds no projection film"
    MODALITY = "modality is not a radiograph"
    BODY_PART = "body part is not the chest"
    BODY_PART_UNKNOWN = "capture without a chest body part"
    VIEW = "view is not frontal"
    COLOUR = "colour image"
    PALETTE = "palette colour image"
    PHOTOMETRIC = "photometric interpretation not supported"
    ENCODING = "encoding not supported"
    DOCUMENT = "encapsulated document"
    VIDEO = "video"
    WAVEFORM = "waveform"
    MULTI_FRAME = "multi-frame image"
    BIT_DEPTH = "bit depth not supported"
    NO_PIXEL_DATA = "no pixel data"
    TOO_SMALL = "image too small"
    TOO_LARGE = "image too large"
    NO_CONTRAST = "image without contrast"
    NO_REGION = "no region found"


@dataclass(frozen=True)
class DecodeLimits:
    """What a file may ask for at most."""

    maximum_pixels: int = 64_000_000  # rows x columns
    maximum_bytes: int = 512 << 20  # rows x columns x samples x frames x bytes
    maximum_file_bytes: int = 1 << 30
    maximum_inflated_bytes: int = 512 << 20  # of a deflated data set
    maximum_tiles: int = 8192  # of a JPEG 2000 frame: 64 million pixels in tiles of 128 x 128 are half of it


@dataclass(frozen=True)
class Policy:
    """Which instances are taken for frontal chest films."""

    modalities: frozenset[str] = frozenset({"CR", "DX", "DR", "RG"})  # films, whatever the body part element says
    capture_modalities: frozenset[str] = frozenset({"SC", "OT", "XR", "RF", ""})  # only with a chest
    minimum_side: int = 32  # pixels: an icon or a test pattern, not a film
    limits: DecodeLimits = DecodeLimits()

    @classmethod
    def of(cls, settings: IngestSettings) -> "Policy":
        """The policy that the configuration asks for."""
        modalities = frozenset(name.strip().upper() for name in settings.modalities.split(",") if name.strip())
        return cls(modalities=modalities, limits=DecodeLimits(maximum_pixels=settings.maximum_pixels))


# PS3.4 B.5: storage classes that never hold a picture, by the UID they start with.
_CLASS_REASONS: Final = (
    ("1.2.840.10008.5.1.4.1.1.88.59", Reason.KEY_OBJECTS),
    ("1.2.840.10008.5.1.4.1.1.88.", Reason.REPORT),
    ("1.2.840.10008.5.1.4.1.1.11.", Reason.PRESENTATION_STATE),
    ("1.2.840.10008.5.1.4.1.1.66.4", Reason.SEGMENTATION),
    ("1.2.840.10008.5.1.4.1.1.66.5", Reason.SEGMENTATION),  # surface
    ("1.2.840.10008.5.1.4.1.1.66.7", Reason.SEGMENTATION),  # label map
    ("1.2.840.10008.5.1.4.1.1.104.", Reason.DOCUMENT),
    ("1.2.840.10008.5.1.4.1.1.9.", Reason.WAVEFORM),
    ("1.2.840.10008.5.1.4.1.1.77.1.1.1", Reason.VIDEO),  # endoscopic
    ("1.2.840.10008.5.1.4.1.1.77.1.2.1", Reason.VIDEO),  # microscopic
    ("1.2.840.10008.5.1.4.1.1.77.1.4.1", Reason.VIDEO),  # photographic
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# PS3.16 Annex L (defined terms of Body Part Examined) and the spellings modalities use.
_CHEST_WORDS: Final = ("CHEST", "THORAX", "LUNG", "THORACIC CAVITY", "HEART", "MEDIASTINUM", "RIB")
_OTHER_PARTS: Final = _words(
    "ABDOMEN ABDOMENPELVIS ANKLE ARM BLADDER BRAIN BREAST CALCANEUS CLAVICLE COCCYX CSPINE ELBOW EAR EXTREMITY EYE "
    "FACE FEMUR FIBULA FINGER FOOT FOREARM HAND HEAD HEADNECK HIP HUMERUS JAW KIDNEY KNEE LEG LIVER LSPINE MANDIBLE "
    "MAXILLA NECK NOSE ORBIT PATELLA PELVIS SACRUM SCAPULA SHOULDER SINUS SKULL SPINE SSPINE STERNUM TEETH TEMPORAL "
    "THIGH THUMB TIBIA TMJ TOE TSPINE WRIST ZYGOMA"
)
# PS3.16 CID 4: chest, thorax (2020 code), chest cavity; the first by its SNOMED RT code too.
_CHEST_CODES: Final = frozenset(
    {("SCT", "51185008"), ("SCT", "816094009"), ("SCT", "43799004"), ("SRT", "T-D3000"), ("SRT", "T-D3200")}
)

# PS3.3 C.8.11.5.1.1 View Position: laterals, decubitus and obliques; PA and AP stay.
_OTHER_VIEWS: Final = _words(
    "LL RL LLD RLD LLO RLO LAO RAO LPO RPO LAT LATERAL LATERALIS LLAT RLAT OBL OBLIQUE DECUBITUS DECUB"
)
# PS3.16 CID 4010 DX View: lateral, left lateral, right lateral, oblique and its sides; then their SNOMED RT codes.
_OTHER_VIEW_CODES: Final = frozenset(
    {("SCT", code) for code in ("399067008", "399173006", "399198007", "399182000", "399135007", "399356000")}
    | {("SCT", code) for code in ("399184004", "399236003", "399006002", "399038007", "260427002")}
    | {("SRT", code) for code in ("R-10228", "R-10232", "R-10236")}
)


@quiet_pydicom()
def eligibility(header: Dataset, policy: Policy) -> None:
    """Return when the instance may be a frontal chest film; NotIndexable with the first reason that it is not.

    `header` need not hold the pixel data. The checks run from what the object is to what its pixels are.
    """
    _check_class(header, policy)
    _check_body_part(header, policy)
    _check_view(header)
    check_pixels(header, policy)


def check_pixels(header: Dataset, policy: Policy) -> None:
    """NotIndexable unless the pixel module (PS3.3 C.7.6.3) describes one frame, maybe grey, of an accepted size."""
    rows, columns = _count(header, "Rows"), _count(header, "Columns")
    if not rows or not columns or not _count(header, "BitsAllocated"):
        raise NotIndexable(Reason.NO_PIXEL_DATA)
    check_photometric(header)
    if (frames := _count(header, "NumberOfFrames")) > 1:
        raise NotIndexable(Reason.MULTI_FRAME, f"{frames} frames")
    check_depth(header)
    if min(rows, columns) < policy.minimum_side:
        raise NotIndexable(Reason.TOO_SMALL, f"{rows} x {columns}")
    if rows * columns > policy.limits.maximum_pixels:
        raise NotIndexable(Reason.TOO_LARGE, f"{rows} x {columns}")


def _check_class(header: Dataset, policy: Policy) -> None:
    sop_class, modality = _term(header, "SOPClassUID"), _term(header, "Modality")
    for prefix, reason in _CLASS_REASONS:
        if sop_class.startswith(prefix):
            raise NotIndexable(reason)
    if sop_class not in FILM_CLASSES | CAPTURE_CLASSES:
        known_film = modality in policy.modalities
        raise NotIndexable(Reason.NOT_A_FILM if known_film or not modality else Reason.MODALITY, modality[:16])
    if modality not in policy.modalities | policy.capture_modalities:
        raise NotIndexable(Reason.MODALITY, modality[:16])


def _check_body_part(header: Dataset, policy: Policy) -> None:
    if _is_chest(header):
        return
    part = _term(header, "BodyPartExamined")
    if set(re.findall("[A-Z]+", part)) & _OTHER_PARTS:
        raise NotIndexable(Reason.BODY_PART, part[:16])
    if _term(header, "Modality") not in policy.modalities and _term(header, "SOPClassUID") not in FILM_CLASSES:
        raise NotIndexable(Reason.BODY_PART_UNKNOWN)


def _is_chest(header: Dataset) -> bool:
    part = _term(header, "BodyPartExamined")
    coded = {code.key for code in codes_in(header, "AnatomicRegionSequence")}
    return any(word in part for word in _CHEST_WORDS) or bool(coded & _CHEST_CODES)


def _check_view(header: Dataset) -> None:
    view = _term(header, "ViewPosition")
    if set(re.findall("[A-Z]+", view)) & _OTHER_VIEWS:
        raise NotIndexable(Reason.VIEW, view[:16])
    if {code.key for code in codes_in(header, "ViewCodeSequence")} & _OTHER_VIEW_CODES:
        raise NotIndexable(Reason.VIEW, "View Code Sequence")
    # PS3.3 C.7.6.1.1.1: rows that run from front to back, or back to front, show the patient from the side.
    if _term(header, "PatientOrientation")[:1] in {"A", "P"}:
        raise NotIndexable(Reason.VIEW, "Patient Orientation")


def check_photometric(header: Dataset) -> None:
    """NotIndexable unless the pixels can be shown grey: greyscale, or colour that may be grey in fact (`colour`)."""
    photometric, samples = _term(header, "PhotometricInterpretation"), _count(header, "SamplesPerPixel") or 1
    if samples == 1 and photometric in GREYSCALE | {PALETTE}:
        return
    if samples == 3 and photometric in COLOURS:
        return
    is_colour = samples > 1 or photometric.startswith(("RGB", "YBR", "HSV", "CMYK", "ARGB"))
    raise NotIndexable(Reason.COLOUR if is_colour else Reason.PHOTOMETRIC, photometric[:16])


def check_depth(header: Dataset) -> None:
    """NotIndexable unless a value lies whole in its cell (PS3.5 8.1.1), in 1, 8, 16 or 32 bits or as a float."""
    allocated, stored = _count(header, "BitsAllocated"), _count(header, "BitsStored")
    is_float = allocated in {32, 64} and "BitsStored" not in header  # PS3.3 C.7.6.24, C.7.6.25
    high = _count(header, "HighBit") if "HighBit" in header else stored - 1
    if not is_float and (allocated not in {1, 8, 16, 32} or not 1 <= stored <= high + 1 <= allocated):
        raise NotIndexable(Reason.BIT_DEPTH, f"{stored} of {allocated} bits")


def _term(header: Dataset, keyword: str) -> str:
    """A defined term in upper case, the first of several; empty when absent."""
    value = header.get(keyword)
    text = value if isinstance(value, str) else next(iter(value), "") if value else ""
    return str(text).strip(" \0").upper()


def _count(header: Dataset, keyword: str) -> int:
    """A count or size; 0 when absent or no number."""
    value = header.get(keyword)
    return int(value) if isinstance(value, int) else 0
