"""The tables, as SQLAlchemy Core: what the catalogue, the jobs and the vectors are made of.

patient 1-n study 1-n series 1-n instance 1-n job n-1 generation; instance 1-n region 1-n vector; an instance has at
most one local map in a generation.
`migrations/` creates exactly this; a test compares the two on every database.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

REVISION = "0007"  # the newest migration; a test compares it with the folder

METADATA = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)

# Byte order everywhere: an answer's order and a range must not depend on a database's locale.
Bytewise = Text().with_variant(Text(collation="C"), "postgresql")
RowId = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows only for INTEGER PRIMARY KEY


def _text(name: str, *, required: bool = False, index: bool = False) -> Column[str]:
    return Column(name, Bytewise, nullable=not required, index=index)


def _parent(name: str, target: str) -> Column[int]:
    return Column(name, RowId, ForeignKey(target), nullable=False, index=True)


PATIENT = Table(
    "patient",
    METADATA,
    Column("id", RowId, primary_key=True),
    _text("patient_id", required=True),
    _text("issuer", required=True),
    _text("anonymous_key", required=True),
    _text("patient_name"),
    _text("patient_name_key", index=True),
    _text("patient_birth_date", index=True),
    _text("patient_sex"),
    UniqueConstraint("patient_id", "issuer", "anonymous_key"),
)

STUDY = Table(
    "study",
    METADATA,
    Column("id", RowId, primary_key=True),
    _parent("patient_row_id", "patient.id"),
    _text("study_instance_uid", required=True),
    _text("study_date", index=True),
    _text("study_time"),
    _text("accession_number", index=True),
    _text("study_id", index=True),
    _text("study_description"),
    _text("referring_physician_name"),
    _text("referring_physician_name_key", index=True),
    Column("last_received_at", Double, nullable=False, server_default=text("0")),
    Column("completed_at", Double, index=True),  # when it was found that nothing arrives any more; NULL: arriving
    UniqueConstraint("study_instance_uid"),
)

SERIES = Table(
    "series",
    METADATA,
    Column("id", RowId, primary_key=True),
    _parent("study_row_id", "study.id"),
    _text("series_instance_uid", required=True),
    _text("modality", index=True),
    _text("series_number"),
    _text("series_date"),
    _text("series_time"),
    _text("series_description"),
    _text("body_part_examined", index=True),
    _text("laterality"),
    _text("protocol_name"),
    _text("station_name"),
    _text("manufacturer"),
    UniqueConstraint("series_instance_uid"),
)

INSTANCE = Table(
    "instance",
    METADATA,
    Column("id", RowId, primary_key=True),
    Column("series_row_id", RowId, ForeignKey("series.id"), nullable=False),
    _text("sop_instance_uid", required=True),
    _text("sop_class_uid", required=True),
    _text("transfer_syntax_uid", required=True),
    _text("instance_number"),
    _text("content_date"),
    _text("content_time"),
    Column("rows", Integer),
    Column("columns", Integer),
    Column("frames", Integer),
    _text("path", required=True),
    _text("sha256", required=True),
    Column("size", BigInteger, nullable=False),
    Column("received_at", Double, nullable=False),
    _text("source_ae"),
    Column("header", LargeBinary, nullable=False),
    UniqueConstraint("sop_instance_uid"),
    UniqueConstraint("path"),
    Index(None, "series_row_id", "size"),  # what a study, and all of them, take on disk without reading the rows
    sqlite_autoincrement=True,  # an id in a filter or a snapshot must never come to mean another instance
)

GENERATION = Table(
    "generation",
    METADATA,
    Column("id", RowId, primary_key=True),
    _text("model_id", required=True),
    _text("model_path", required=True),
    Column("dim", Integer, nullable=False),
    Column("projections", JSON, nullable=False),
    Column("regions", JSON, nullable=False),
    Column("thresholds", JSON, nullable=False),
    _text("state", required=True),
    Column("created_at", Double, nullable=False),
    Column("live_since", Double),
    sqlite_autoincrement=True,
)
Index(
    "generation_one_live",
    GENERATION.c.state,
    unique=True,
    sqlite_where=GENERATION.c.state == "live",
    postgresql_where=GENERATION.c.state == "live",
)
Index(
    "generation_one_building",
    GENERATION.c.state,
    unique=True,
    sqlite_where=GENERATION.c.state == "building",
    postgresql_where=GENERATION.c.state == "building",
)

JOB = Table(
    "job",
    METADATA,
    Column("id", RowId, primary_key=True),
    Column("instance_id", RowId, ForeignKey("instance.id"), nullable=False),
    Column("generation_id", RowId, ForeignKey("generation.id"), nullable=False),
    _text("state", required=True),
    _text("reason", required=True),
    Column("attempts", Integer, nullable=False),
    Column("not_before", Double, nullable=False),
    _text("lease_owner"),
    Column("lease_until", Double),
    Column("updated_at", Double, nullable=False),
    UniqueConstraint("instance_id", "generation_id"),
    Index(None, "generation_id", "state", "id"),
    Index(None, "state", "lease_until"),
)

REGION = Table(
    "region",
    METADATA,
    Column("id", RowId, primary_key=True, autoincrement=False),  # the counter's value, see Database.advance
    Column("generation_id", RowId, ForeignKey("generation.id"), nullable=False),
    Column("instance_id", RowId, ForeignKey("instance.id"), nullable=False, index=True),
    Column("anatomy", SmallInteger, nullable=False),
    Column("x1", Double, nullable=False),
    Column("y1", Double, nullable=False),
    Column("x2", Double, nullable=False),
    Column("y2", Double, nullable=False),
    Column("presence", Double, nullable=False),
    UniqueConstraint("generation_id", "instance_id", "anatomy"),
    Index(None, "generation_id", "anatomy", "id"),
)

VECTOR = Table(
    "vector",
    METADATA,
    Column("region_id", RowId, ForeignKey("region.id"), primary_key=True, autoincrement=False),
    Column("projection", SmallInteger, primary_key=True, autoincrement=False),  # place in generation.projections
    Column("data", LargeBinary, nullable=False),  # (dim,) fp16, little endian
    sqlite_with_rowid=False,  # the rows are their own index
)

LOCAL_MAP = Table(
    "local_map",
    METADATA,
    Column("generation_id", RowId, ForeignKey("generation.id"), primary_key=True, autoincrement=False),
    Column("instance_id", RowId, ForeignKey("instance.id"), primary_key=True, autoincrement=False, index=True),
    Column("rows", Integer, nullable=False),
    Column("columns", Integer, nullable=False),
    Column("channels", Integer, nullable=False),
    Column("x1", Double, nullable=False),
    Column("y1", Double, nullable=False),
    Column("x2", Double, nullable=False),
    Column("y2", Double, nullable=False),
    Column("data", LargeBinary, nullable=False),  # (rows, columns, channels) int8
)

# A region's id says when it was added; only what went away needs a log of its own.
REMOVAL = Table(
    "removal",
    METADATA,
    Column("seq", RowId, primary_key=True, autoincrement=False),
    Column("region_id", RowId, nullable=False),
    Column("generation_id", RowId, nullable=False),
    Column("anatomy", SmallInteger, nullable=False),
    Index(None, "generation_id", "anatomy", "seq"),
)

# How far the tables of a generation's vectors have followed its regions: see `vectors.pgvector`.
NEAREST = Table(
    "nearest",
    METADATA,
    Column("generation_id", RowId, primary_key=True, autoincrement=False),  # its tables outlive the row that it names
    Column("projection", SmallInteger, primary_key=True, autoincrement=False),
    Column("watermark", RowId, nullable=False),
)

# What an instance says of its patient or study against what was there before, for the administrator to mend.
CONFLICT = Table(
    "conflict",
    METADATA,
    Column("id", RowId, primary_key=True),
    _text("study_instance_uid", required=True),  # of the study as it is kept
    _text("kind", required=True),
    _text("patient_id", required=True),  # as stated by what arrived
    _text("issuer", required=True),
    _text("sop_instance_uid", required=True),  # the latest
    _text("source_ae"),
    _text("outcome", required=True),
    Column("times", Integer, nullable=False),
    Column("first_at", Double, nullable=False),
    Column("last_at", Double, nullable=False),
    UniqueConstraint("study_instance_uid", "kind", "patient_id", "issuer"),
)

# What a peer asked to be committed and has not been told yet. PS3.4 J.3.
COMMITMENT = Table(
    "commitment",
    METADATA,
    Column("id", RowId, primary_key=True),
    _text("transaction_uid", required=True),
    _text("ae_title", required=True),
    Column("entries", JSON, nullable=False),  # SOP class, SOP instance and failure reason of each reference
    Column("attempts", Integer, nullable=False),
    Column("requested_at", Double, nullable=False),
    Column("not_before", Double, nullable=False, index=True),
    _text("lease_owner"),  # who has it in hand until `not_before`
)

# A stored SR that asks which regions look like its own, and the answer that is kept for it.
QUESTION = Table(
    "question",
    METADATA,
    Column("id", RowId, primary_key=True),
    _text("sop_instance_uid", required=True),  # of the SR
    _text("source_ae", required=True),  # who asked; empty: nobody that has an AE title
    _text("state", required=True),
    _text("reason", required=True),
    Column("attempts", Integer, nullable=False),
    Column("asked_at", Double, nullable=False),
    Column("not_before", Double, index=True),  # NULL: nothing is to be done for it any more
    Column("answered_at", Double),
    Column("answer", JSON),
    _text("report_uid", index=True),  # SOP Instance UIDs of the result objects
    _text("panel_uid"),
    _text("lease_owner"),  # who has it in hand until `not_before`
    UniqueConstraint("sop_instance_uid"),
)

# A result object that a peer is to be sent.
DELIVERY = Table(
    "delivery",
    METADATA,
    Column("id", RowId, primary_key=True),
    _parent("question_id", "question.id"),
    _text("sop_instance_uid", required=True),
    _text("ae_title", required=True),
    _text("state", required=True),
    _text("reason", required=True),
    Column("attempts", Integer, nullable=False),
    Column("owed_at", Double, nullable=False),
    Column("not_before", Double, index=True),  # NULL: it has ended
    _text("lease_owner"),  # who has it in hand until `not_before`
    UniqueConstraint("sop_instance_uid", "ae_title"),
)

# `change`: the watermark of regions, written in the transaction it counts. `generation`: the lock between a
# store's jobs and a new generation's. `pruned`: removals up to this value of `change` are not kept any more.
# `expired`: studies that retention has deleted. `oldest_program`: the first revision whose programs can work on this
# database, see Database.upgrade.
COUNTER = Table(
    "counter",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("value", RowId, nullable=False),
)
