"""The first schema: patients to instances, generations and their jobs, regions and their vectors."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# A migration never changes: it spells out what the schema was, and does not import what it is.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _patients_to_instances()
    _generations_and_jobs()
    _regions()
    counter = sa.table("counter", sa.column("name"), sa.column("value"))
    op.bulk_insert(counter, [{"name": "change", "value": 0}, {"name": "generation", "value": 0}])


def _patients_to_instances() -> None:
    op.create_table(
        "patient",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("patient_id", TEXT, nullable=False),
        sa.Column("issuer", TEXT, nullable=False),
        sa.Column("anonymous_key", TEXT, nullable=False),
        sa.Column("patient_name", TEXT, nullable=True),
        sa.Column("patient_name_key", TEXT, nullable=True),
        sa.Column("patient_birth_date", TEXT, nullable=True),
        sa.Column("patient_sex", TEXT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="patient_pkey"),
        sa.UniqueConstraint(
            "patient_id", "issuer", "anonymous_key", name="patient_patient_id_issuer_anonymous_key_key"
        ),
    )
    op.create_index("patient_patient_birth_date", "patient", ["patient_birth_date"], unique=False)
    op.create_index("patient_patient_name_key", "patient", ["patient_name_key"], unique=False)
    op.create_table(
        "study",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("patient_row_id", ROW_ID, nullable=False),
        sa.Column("study_instance_uid", TEXT, nullable=False),
        sa.Column("study_date", TEXT, nullable=True),
        sa.Column("study_time", TEXT, nullable=True),
        sa.Column("accession_number", TEXT, nullable=True),
        sa.Column("study_id", TEXT, nullable=True),
        sa.Column("study_description", TEXT, nullable=True),
        sa.Column("referring_physician_name", TEXT, nullable=True),
        sa.Column("referring_physician_name_key", TEXT, nullable=True),
        sa.ForeignKeyConstraint(["patient_row_id"], ["patient.id"], name="study_patient_row_id_fkey"),
        sa.PrimaryKeyConstraint("id", name="study_pkey"),
        sa.UniqueConstraint("study_instance_uid", name="study_study_instance_uid_key"),
    )
    op.create_index("study_accession_number", "study", ["accession_number"], unique=False)
    op.create_index("study_patient_row_id", "study", ["patient_row_id"], unique=False)
    op.create_index("study_referring_physician_name_key", "study", ["referring_physician_name_key"], unique=False)
    op.create_index("study_study_date", "study", ["study_date"], unique=False)
    op.create_index("study_study_id", "study", ["study_id"], unique=False)
    op.create_table(
        "series",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("study_row_id", ROW_ID, nullable=False),
        sa.Column("series_instance_uid", TEXT, nullable=False),
        sa.Column("modality", TEXT, nullable=True),
        sa.Column("series_number", TEXT, nullable=True),
        sa.Column("series_date", TEXT, nullable=True),
        sa.Column("series_time", TEXT, nullable=True),
        sa.Column("series_description", TEXT, nullable=True),
        sa.Column("body_part_examined", TEXT, nullable=True),
        sa.Column("laterality", TEXT, nullable=True),
        sa.Column("protocol_name", TEXT, nullable=True),
        sa.Column("station_name", TEXT, nullable=True),
        sa.Column("manufacturer", TEXT, nullable=True),
        sa.ForeignKeyConstraint(["study_row_id"], ["study.id"], name="series_study_row_id_fkey"),
        sa.PrimaryKeyConstraint("id", name="series_pkey"),
        sa.UniqueConstraint("series_instance_uid", name="series_series_instance_uid_key"),
    )
    op.create_index("series_body_part_examined", "series", ["body_part_examined"], unique=False)
    op.create_index("series_modality", "series", ["modality"], unique=False)
    op.create_index("series_study_row_id", "series", ["study_row_id"], unique=False)
    op.create_table(
        "instance",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("series_row_id", ROW_ID, nullable=False),
        sa.Column("sop_instance_uid", TEXT, nullable=False),
        sa.Column("sop_class_uid", TEXT, nullable=False),
        sa.Column("transfer_syntax_uid", TEXT, nullable=False),
        sa.Column("instance_number", TEXT, nullable=True),
        sa.Column("content_date", TEXT, nullable=True),
        sa.Column("content_time", TEXT, nullable=True),
        sa.Column("rows", sa.Integer(), nullable=True),
        sa.Column("columns", sa.Integer(), nullable=True),
        sa.Column("frames", sa.Integer(), nullable=True),
        sa.Column("path", TEXT, nullable=False),
        sa.Column("sha256", TEXT, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("source_ae", TEXT, nullable=True),
        sa.Column("header", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["series_row_id"], ["series.id"], name="instance_series_row_id_fkey"),
        sa.PrimaryKeyConstraint("id", name="instance_pkey"),
        sa.UniqueConstraint("path", name="instance_path_key"),
        sa.UniqueConstraint("sop_instance_uid", name="instance_sop_instance_uid_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("instance_series_row_id", "instance", ["series_row_id"], unique=False)


def _generations_and_jobs() -> None:
    op.create_table(
        "counter",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", ROW_ID, nullable=False),
        sa.PrimaryKeyConstraint("name", name="counter_pkey"),
    )
    op.create_table(
        "generation",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("model_id", TEXT, nullable=False),
        sa.Column("model_path", TEXT, nullable=False),
        sa.Column("dim", sa.Integer(), nullable=False),
        sa.Column("projections", sa.JSON(), nullable=False),
        sa.Column("regions", sa.JSON(), nullable=False),
        sa.Column("thresholds", sa.JSON(), nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("live_since", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="generation_pkey"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "generation_one_building",
        "generation",
        ["state"],
        unique=True,
        sqlite_where=sa.text("state = 'building'"),
        postgresql_where=sa.text("state = 'building'"),
    )
    op.create_index(
        "generation_one_live",
        "generation",
        ["state"],
        unique=True,
        sqlite_where=sa.text("state = 'live'"),
        postgresql_where=sa.text("state = 'live'"),
    )
    op.create_table(
        "job",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("instance_id", ROW_ID, nullable=False),
        sa.Column("generation_id", ROW_ID, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("lease_owner", TEXT, nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["generation_id"], ["generation.id"], name="job_generation_id_fkey"),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name="job_instance_id_fkey"),
        sa.PrimaryKeyConstraint("id", name="job_pkey"),
        sa.UniqueConstraint("instance_id", "generation_id", name="job_instance_id_generation_id_key"),
    )
    op.create_index("job_generation_id_state_id", "job", ["generation_id", "state", "id"], unique=False)
    op.create_index("job_state_lease_until", "job", ["state", "lease_until"], unique=False)


def _regions() -> None:
    op.create_table(
        "removal",
        sa.Column("seq", ROW_ID, autoincrement=False, nullable=False),
        sa.Column("region_id", ROW_ID, nullable=False),
        sa.Column("generation_id", ROW_ID, nullable=False),
        sa.Column("anatomy", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="removal_pkey"),
    )
    op.create_index("removal_generation_id_anatomy_seq", "removal", ["generation_id", "anatomy", "seq"], unique=False)
    op.create_table(
        "region",
        sa.Column("id", ROW_ID, autoincrement=False, nullable=False),
        sa.Column("generation_id", ROW_ID, nullable=False),
        sa.Column("instance_id", ROW_ID, nullable=False),
        sa.Column("anatomy", sa.SmallInteger(), nullable=False),
        sa.Column("x1", sa.Double(), nullable=False),
        sa.Column("y1", sa.Double(), nullable=False),
        sa.Column("x2", sa.Double(), nullable=False),
        sa.Column("y2", sa.Double(), nullable=False),
        sa.Column("presence", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["generation_id"], ["generation.id"], name="region_generation_id_fkey"),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name="region_instance_id_fkey"),
        sa.PrimaryKeyConstraint("id", name="region_pkey"),
        sa.UniqueConstraint(
            "generation_id", "instance_id", "anatomy", name="region_generation_id_instance_id_anatomy_key"
        ),
    )
    op.create_index("region_generation_id_anatomy_id", "region", ["generation_id", "anatomy", "id"], unique=False)
    op.create_index("region_instance_id", "region", ["instance_id"], unique=False)
    op.create_table(
        "vector",
        sa.Column("region_id", ROW_ID, autoincrement=False, nullable=False),
        sa.Column("projection", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["region_id"], ["region.id"], name="vector_region_id_fkey"),
        sa.PrimaryKeyConstraint("region_id", "projection", name="vector_pkey"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    for table in (
        "vector",
        "removal",
        "region",
        "job",
        "generation",
        "counter",
        "instance",
        "series",
        "study",
        "patient",
    ):
        op.drop_table(table)
