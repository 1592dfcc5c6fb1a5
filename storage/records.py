"""The values that cross storage's edge: frozen, plain, with units and frames in the names.

Column values are strings as the caller normalised them, None for absent. Times are seconds since 1970 (UTC).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Level = Literal["PATIENT", "STUDY", "SERIES", "IMAGE"]
Policy = Literal["keep", "replace"]
ConflictPolicy = Literal["keep", "refuse"]
Outcome = Literal["new", "identical", "kept", "replaced", "refused"]
ConflictKind = Literal["patient", "study", "demographics"]
StudyOrder = Literal["received", "study_date"]
JobState = Literal["queued", "running", "indexed", "not_indexable", "failed"]
QuestionState = Literal["waiting", "answered", "stored", "failed"]
DeliveryState = Literal["owed", "sent", "refused", "given up"]
GenerationState = Literal["building", "live", "retired", "abandoned"]
Row = Mapping[str, Any]  # flat column name -> value, see catalog.COLUMNS


# --- what comes in -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NewPatient:
    """Who an instance belongs to. Identity is (patient_id, issuer, anonymous_key)."""

    patient_id: str
    issuer: str = ""
    anonymous_key: str = ""  # "" unless patient_id is empty: then what tells patients apart, e.g. the study's UID
    patient_name: str | None = None
    patient_name_key: str | None = None  # upper-cased, what PN matching runs on
    patient_birth_date: str | None = None  # YYYYMMDD
    patient_sex: str | None = None


@dataclass(frozen=True)
class NewStudy:
    study_instance_uid: str
    study_date: str | None = None  # YYYYMMDD
    study_time: str | None = None  # HHMMSS.ffffff, may be shorter
    accession_number: str | None = None
    study_id: str | None = None
    study_description: str | None = None
    referring_physician_name: str | None = None
    referring_physician_name_key: str | None = None


@dataclass(frozen=True)
class NewSeries:
    series_instance_uid: str
    modality: str | None = None
    series_number: str | None = None
    series_date: str | None = None
    series_time: str | None = None
    series_description: str | None = None
    body_part_examined: str | None = None
    laterality: str | None = None
    protocol_name: str | None = None
    station_name: str | None = None
    manufacturer: str | None = None


@dataclass(frozen=True)
class NewInstance:
    """One instance as the receiver read it; `header` is opaque: its data set without pixels, encoded."""

    patient: NewPatient
    study: NewStudy
    series: NewSeries
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    instance_number: str | None = None
    content_date: str | None = None
    content_time: str | None = None
    rows: int | None = None
    columns: int | None = None
    frames: int | None = None
    source_ae: str | None = None
    header: bytes = b""


@dataclass(frozen=True)
class KeptFile:
    """A file that is complete and synced under its final name."""

    path: str  # relative to the root, never made of a peer's string
    sha256: str  # hex, of the whole file
    size: int  # bytes


@dataclass(frozen=True)
class Added:
    """What a store did. `kept` and `identical` leave the first instance as it was; `refused` leaves nothing.

    `conflicts`: what the instance says otherwise than what was there, which stays: `patient`, its study or series is
    another patient's; `study`, its series is another study's; `demographics`, the patient's name or birth date.
    """

    outcome: Outcome
    instance_id: int  # 0 when refused
    conflicts: tuple[ConflictKind, ...] = ()
    study_instance_uid: str = ""  # of the study it is in, or would have been in


# --- conditions: what `Catalog.find` and `Catalog.candidates` match on ----------------------------------------


@dataclass(frozen=True)
class Equals:
    """Single value matching: exactly this value."""

    column: str
    value: str | int


@dataclass(frozen=True)
class AnyOf:
    """List matching: one of these; matches nothing when empty."""

    column: str
    values: tuple[str | int, ...]


@dataclass(frozen=True)
class Like:
    """Wild card matching: `%` any run, `_` one character, `\\` escapes. See `like_pattern`. Case sensitive."""

    column: str
    pattern: str


@dataclass(frozen=True)
class InRange:
    """Range matching on strings that sort like their meaning; both ends inclusive, None for open."""

    column: str
    low: str | None
    high: str | None


@dataclass(frozen=True)
class InDateTimeRange:
    """A date and a time column matched as one; ends are YYYYMMDDHHMMSS[.ffffff], inclusive, None for open.

    A row without a time matches by its date alone.
    """

    date_column: str
    time_column: str
    low: str | None
    high: str | None


@dataclass(frozen=True)
class AnyModality:
    """The study has a series of one of these modalities (ModalitiesInStudy)."""

    modalities: tuple[str, ...]


Condition = Equals | AnyOf | Like | InRange | InDateTimeRange | AnyModality

_LIKE = str.maketrans({"*": "%", "?": "_", "%": "\\%", "_": "\\_", "\\": "\\\\"})


def like_pattern(wildcard: str) -> str:
    """A `*` and `?` pattern as the pattern of `Like`; SQL's own wild cards in it are escaped."""
    return wildcard.translate(_LIKE)


# --- what is stored --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InstanceRow:
    """One catalogued instance, with the keys of the levels above it."""

    id: int
    patient_row_id: int
    patient_id: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str | None
    rows: int | None
    columns: int | None
    frames: int | None
    path: str  # relative to the root
    sha256: str
    size: int
    header: bytes


@dataclass(frozen=True)
class StudyCounts:
    """How many studies have had nothing arrive for the stable age, and how many may still be arriving."""

    complete: int
    arriving: int


@dataclass(frozen=True)
class StudyShare:
    """What is meant of one study: its instances, or some of them."""

    study_instance_uid: str
    instances: int
    size: int  # bytes of the files, as received
    last_received_at: float
    patient_id: str = field(default="", repr=False)
    patient_name: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Conflict:
    """Arrivals that contradict a kept study in one way. Holds a Patient ID: for the administrator, not for a log."""

    study_instance_uid: str  # of the study as it is kept
    kind: ConflictKind
    patient_id: str  # as stated by what arrived
    issuer: str
    sop_instance_uid: str  # the latest of them
    source_ae: str | None
    outcome: Outcome  # of the latest
    times: int
    first_at: float
    last_at: float


@dataclass(frozen=True)
class Job:
    """Work owed to one instance in one generation, held under a lease by `owner`."""

    id: int
    instance_id: int
    generation_id: int
    owner: str
    attempts: int  # this one included; also tells two leases of one owner apart
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str  # relative to the root


@dataclass(frozen=True)
class JobCounts:
    """Where the instances of one generation stand; a running job counts as queued."""

    instances: int
    queued: int
    indexed: int
    not_indexable: int
    failed: int


@dataclass(frozen=True)
class Unindexed:
    """A job that ended without vectors, and why."""

    sop_instance_uid: str
    generation_id: int
    state: JobState
    reason: str
    attempts: int
    updated_at: float


@dataclass(frozen=True)
class NewRegion:
    """A region found in an image. Box: half-open, pixels of the stored image, origin at its top-left corner."""

    anatomy: int  # index in the generation's vocabulary
    box: tuple[float, float, float, float]  # x1, y1, x2, y2
    presence: float  # 0..1
    vectors: Mapping[str, NDArray[np.floating[Any]]]  # projection -> (dim,), unit norm; kept as fp16


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """What an image looks like at each place: a grid of short vectors over a part of it, or more than it."""

    cells: NDArray[np.int8]  # (rows, columns, channels)
    area: tuple[float, float, float, float]  # x1, y1, x2, y2 of the grid, as in NewRegion; may reach beyond the image


@dataclass(frozen=True)
class Unmapped:
    """An indexed instance without local features, and the file they are to be made of."""

    instance_id: int
    path: str  # relative to the root
    sha256: str


@dataclass(frozen=True)
class Region:
    """A stored region; `id` is the change counter's value when it was written, never used twice."""

    id: int
    generation_id: int
    instance_id: int
    anatomy: int
    box: tuple[float, float, float, float]  # x1, y1, x2, y2, as in NewRegion
    presence: float


@dataclass(frozen=True, eq=False)
class RegionVector:
    """A stored region with one of its vectors, and whose it is."""

    region: Region
    sop_instance_uid: str
    patient_row_id: int
    vector: NDArray[np.float16]  # (dim,), unit norm within fp16


@dataclass(frozen=True)
class RegionDetails:
    """A region with what an answer says of its instance, study and patient."""

    region: Region
    instance: InstanceRow
    study_date: str | None
    patient_name: str | None
    patient_sex: str | None
    patient_birth_date: str | None


@dataclass(frozen=True)
class Model:
    """The model set that a generation's vectors come from."""

    id: str  # content hash or name; vectors of two ids are never compared
    path: str
    dim: int
    projections: tuple[str, ...]
    regions: tuple[str, ...]  # names of the vocabulary, position = anatomy
    thresholds: Mapping[str, Any] = field(default_factory=dict)  # opaque, JSON


@dataclass(frozen=True)
class Generation:
    """All vectors made by one model set."""

    id: int
    model: Model
    state: GenerationState
    created_at: float
    live_since: float | None


# --- search ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchRequest:
    """One ranked search. `vector`: (dim,) float32, any norm but zero; scores are cosines."""

    generation: int
    projection: str
    anatomies: tuple[int, ...]
    vector: NDArray[np.float32]
    k: int
    allowed: NDArray[np.int64] | None = None  # instance ids (Catalog.candidates); None: every instance
    excluded_patient: int | None = None  # patient row id
    minimum_score: float = -1.0


@dataclass(frozen=True)
class Scored:
    """One hit: cosine rounded to six decimals."""

    region_id: int
    anatomy: int
    score: float


Plan = Literal["gather", "exact", "hnsw", "hnsw->exact"]


@dataclass(frozen=True)
class SearchAnswer:
    """Hits, best first; ties by SOP Instance UID, then anatomy. `plans` says how each anatomy was searched."""

    hits: tuple[Scored, ...]
    plans: Mapping[int, Plan]
    watermark: int  # the change counter the answer is of, at least


@dataclass(frozen=True)
class Reference:
    """One instance that a peer wants committed; `reason`: why it is not (PS3.3 C.14.1.1), 0 when it is."""

    sop_class_uid: str
    sop_instance_uid: str
    reason: int = 0


@dataclass(frozen=True)
class Commitment:
    """The answer to one request for storage commitment, owed to an AE."""

    id: int
    transaction_uid: str
    ae_title: str
    references: tuple[Reference, ...]
    attempts: int  # that failed
    requested_at: float
    owner: str | None = None  # who holds it, see `storage.leases`


@dataclass(frozen=True)
class Question:
    """A stored SR that asks. `answered`: the answer is kept; `stored`: its result objects are, too."""

    id: int
    sop_instance_uid: str
    source_ae: str  # who asked; empty: nobody that has an AE title
    state: QuestionState
    reason: str  # why it waits, or failed; holds no patient data
    attempts: int  # that came to nothing
    asked_at: float
    answered_at: float | None
    answer: Mapping[str, Any] | None  # opaque, JSON
    report_uid: str | None  # SOP Instance UIDs of the result objects, from `answered` on; of a failure its notice
    panel_uid: str | None
    owner: str | None = None  # who holds it, see `storage.leases`


@dataclass(frozen=True)
class Delivery:
    """A result object that a peer is to be sent, or was."""

    id: int
    question_id: int
    sop_instance_uid: str
    ae_title: str
    state: DeliveryState
    reason: str
    attempts: int  # that failed
    owed_at: float
    owner: str | None = None  # who holds it, see `storage.leases`


@dataclass(frozen=True)
class Disagreement:
    """Something `Store.check` found that contradicts something else kept."""

    kind: Literal[
        "database damaged",
        "file missing",
        "file differs",
        "file unknown",
        "row empty",
        "job missing",
        "regions unexpected",
        "local map unexpected",
        "local map damaged",
        "index differs",
    ]
    subject: str  # SOP Instance UID, relative path, or partition
    detail: str
