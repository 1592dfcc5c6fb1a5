"""Regions of an image, their vectors and its local map in, rows out; regions move the counter that indexes follow.

A region's id is the counter's value when it was written: ids grow in the order of commits and are never used twice,
so an index that is complete up to w lacks exactly the regions above w and the removals above w.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, delete, func, insert, select

from storage.database import Database, advance
from storage.errors import VectorError
from storage.local_maps import add_map, delete_map
from storage.matching import LEVELS, joined
from storage.records import InstanceRow, LocalFeatures, NewRegion, Region, RegionDetails, RegionVector
from storage.schema import GENERATION, INSTANCE, PATIENT, REGION, REMOVAL, SERIES, STUDY, VECTOR

CHUNK = 5_000  # ids in one statement: databases limit the number of parameters
STORED = np.dtype("<f2")

_ADD_REGION, _ADD_VECTOR, _ADD_REMOVAL = insert(REGION), insert(VECTOR), insert(REMOVAL)
_SHAPE = select(GENERATION.c.dim, GENERATION.c.projections).where(GENERATION.c.id == bindparam("generation"))
_INSTANCE = (
    *(INSTANCE.c.id, STUDY.c.patient_row_id, PATIENT.c.patient_id, STUDY.c.study_instance_uid),
    *(SERIES.c.series_instance_uid, INSTANCE.c.sop_instance_uid, INSTANCE.c.sop_class_uid),
    *(INSTANCE.c.transfer_syntax_uid, SERIES.c.modality, INSTANCE.c["rows"], INSTANCE.c["columns"]),
    *(INSTANCE.c.frames, INSTANCE.c.path, INSTANCE.c.sha256, INSTANCE.c.size, INSTANCE.c.header),
)
INSTANCE_ROW = select(*_INSTANCE).select_from(joined(LEVELS))  # in the order of InstanceRow's fields
_MORE = (STUDY.c.study_date, PATIENT.c.patient_name, PATIENT.c.patient_sex, PATIENT.c.patient_birth_date)
_OWN = tuple(REGION.columns)
_DETAILS = (  # made once: making it costs as much as running it
    select(*_INSTANCE, *_MORE, *_OWN)
    .select_from(joined(LEVELS).join(REGION))
    .where(REGION.c.id.in_(bindparam("regions", expanding=True)))
)
_ANY = select(REGION.c.id).where(REGION.c.generation_id == bindparam("generation")).limit(1)
_OF_INSTANCE = (
    select(REGION)
    .where(REGION.c.generation_id == bindparam("generation"), REGION.c.instance_id == bindparam("instance"))
    .order_by(REGION.c.anatomy)
)
_VECTOR_OF = (
    select(GENERATION.c.projections, VECTOR.c.projection, VECTOR.c.data)
    .select_from(REGION.join(GENERATION).join(VECTOR))
    .where(REGION.c.id == bindparam("region"))
)


class Regions:
    """Reading regions. Writing them is part of ending a job: `replace_regions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_instance(self, generation_id: int, instance_id: int) -> list[Region]:
        """The instance's regions in that generation, by anatomy."""
        asked = {"generation": generation_id, "instance": instance_id}
        with self._database.reading() as connection:
            return [_region(row) for row in connection.execute(_OF_INSTANCE, asked).mappings()]

    def vector(self, region_id: int, projection: str) -> NDArray[np.float16]:
        """The stored vector: (dim,) fp16. VectorError when there is none of that region and projection."""
        with self._database.reading() as connection:
            for names, place, data in connection.execute(_VECTOR_OF, {"region": region_id}):
                if names[place] == projection:
                    return np.frombuffer(data, STORED)
        raise VectorError(f"region {region_id} has no vector of projection {projection!r}")

    def details(self, region_ids: Sequence[int]) -> list[RegionDetails]:
        """What an answer says of each region, in the order asked; a region that is gone is left out."""
        found: dict[int, RegionDetails] = {}
        ends = len(_INSTANCE), len(_INSTANCE) + len(_MORE)
        with self._database.reading() as connection:
            for chunk in chunks(region_ids):
                for row in connection.execute(_DETAILS, {"regions": chunk}):
                    more = dict(zip((column.name for column in _MORE), row[ends[0] : ends[1]], strict=True))
                    region = _region(dict(zip((column.name for column in _OWN), row[ends[1] :], strict=True)))
                    found[region.id] = RegionDetails(region, InstanceRow(*row[: ends[0]]), **more)
        return [found[region_id] for region_id in region_ids if region_id in found]

    def any(self, generation_id: int) -> bool:
        """Whether a generation has regions. Costs one row, however many there are."""
        with self._database.reading() as connection:
            return connection.execute(_ANY, {"generation": generation_id}).first() is not None

    def first(self, generation_id: int, limit: int) -> list[Region]:
        """The first regions of a generation in the order they were written; fewer where there are fewer."""
        query = select(REGION).where(REGION.c.generation_id == generation_id).order_by(REGION.c.id).limit(limit)
        with self._database.reading() as connection:
            return [_region(row) for row in connection.execute(query).mappings()]

    def instances(self, generation_id: int) -> NDArray[np.int64]:
        """(n, 2) row ids of every instance with regions in the generation, ascending, and of its patient."""
        some = select(REGION.c.id).where(REGION.c.instance_id == INSTANCE.c.id, REGION.c.generation_id == generation_id)
        query = select(INSTANCE.c.id, STUDY.c.patient_row_id).select_from(joined(LEVELS)).where(some.exists())
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(INSTANCE.c.id)).all()
        return np.array([tuple(row) for row in rows], np.int64).reshape(-1, 2)

    def with_vectors(self, generation_id: int, projection: str, instance_ids: Iterable[int]) -> list[RegionVector]:
        """Every region of these instances with its vector of that projection, by id. VectorError: no such one."""
        more = (INSTANCE.c.sop_instance_uid, STUDY.c.patient_row_id, VECTOR.c.data)
        query = select(REGION, *more).select_from(joined(LEVELS).join(REGION).join(VECTOR))
        found = []
        with self._database.reading() as connection:
            names = connection.execute(_SHAPE, {"generation": generation_id}).one().projections
            if projection not in names:
                raise VectorError(f"generation {generation_id} has no projection {projection!r}")
            of = query.where(REGION.c.generation_id == generation_id, VECTOR.c.projection == names.index(projection))
            for chunk in chunks(instance_ids):
                for row in connection.execute(of.where(REGION.c.instance_id.in_(chunk))).mappings():
                    vector = np.frombuffer(row["data"], STORED)
                    found.append(RegionVector(_region(row), row["sop_instance_uid"], row["patient_row_id"], vector))
        return sorted(found, key=lambda row: row.region.id)

    def count(self, generation_id: int) -> int:
        """How many regions a generation has."""
        query = select(func.count()).select_from(REGION).where(REGION.c.generation_id == generation_id)
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())


def chunks(ids: Iterable[int]) -> Iterable[list[int]]:
    """Ids in lists that fit one statement."""
    everything = [int(one) for one in ids]
    return (everything[start : start + CHUNK] for start in range(0, len(everything), CHUNK))


def _region(row: Any) -> Region:
    box = (row["x1"], row["y1"], row["x2"], row["y2"])
    return Region(row["id"], row["generation_id"], row["instance_id"], row["anatomy"], box, row["presence"])


# --- writing, inside a caller's transaction ------------------------------------------------------------------------


def replace_regions(
    connection: Connection,
    generation_id: int,
    instance_id: int,
    regions: Sequence[NewRegion],
    local: LocalFeatures | None = None,
) -> None:
    """Make these the instance's regions and local map in that generation, whatever it had before.

    VectorError when a vector's dimension or its projections are not the generation's, or it is not finite; or when
    the map is no grid.
    """
    delete_regions(connection, instance_id, generation_id)
    if local is not None:
        add_map(connection, generation_id, instance_id, local)
    if not regions:
        return
    dim, projections = connection.execute(_SHAPE, {"generation": generation_id}).one()
    encoded = [_encoded(region, dim, projections) for region in regions]
    first = advance(connection, "change", len(regions)) - len(regions) + 1
    rows = [_values(first + i, generation_id, instance_id, region) for i, region in enumerate(regions)]
    connection.execute(_ADD_REGION, rows)
    vectors = [
        {"region_id": first + i, "projection": place, "data": data}
        for i, datas in enumerate(encoded)
        for place, data in enumerate(datas)
    ]
    connection.execute(_ADD_VECTOR, vectors)


def _values(region_id: int, generation_id: int, instance_id: int, region: NewRegion) -> dict[str, Any]:
    owner = {"id": region_id, "generation_id": generation_id, "instance_id": instance_id}
    box = dict(zip(("x1", "y1", "x2", "y2"), map(float, region.box), strict=True))
    return {**owner, **box, "anatomy": region.anatomy, "presence": float(region.presence)}


def _encoded(region: NewRegion, dim: int, projections: Sequence[str]) -> list[bytes]:
    """The region's vectors as stored, in the order of the generation's projections."""
    if set(region.vectors) != set(projections):
        raise VectorError(f"vectors of {sorted(region.vectors)} for a generation of {sorted(projections)}")
    return [_halves(region.vectors[name], dim) for name in projections]


def _halves(vector: NDArray[np.floating[Any]], dim: int) -> bytes:
    halves = np.asarray(vector, dtype=STORED)
    if halves.shape != (dim,):
        raise VectorError(f"a vector of shape {halves.shape} where the generation has ({dim},)")
    if not np.isfinite(halves).all() or not halves.any():
        raise VectorError("a vector that is zero or not finite has no direction")
    return halves.tobytes()


def delete_regions(connection: Connection, instance_id: int, generation_id: int | None = None) -> None:
    """Delete an instance's regions and local map, of one generation or of all, and log which regions went."""
    delete_map(connection, instance_id, generation_id)
    condition = [REGION.c.instance_id == instance_id]
    if generation_id is not None:
        condition.append(REGION.c.generation_id == generation_id)
    columns = (REGION.c.id, REGION.c.generation_id, REGION.c.anatomy)
    gone = connection.execute(select(*columns).where(*condition).order_by(REGION.c.id)).all()
    if not gone:
        return
    ids = [row.id for row in gone]
    connection.execute(delete(VECTOR).where(VECTOR.c.region_id.in_(ids)))
    connection.execute(delete(REGION).where(REGION.c.id.in_(ids)))
    first = advance(connection, "change", len(gone)) - len(gone) + 1
    log = [
        {"seq": first + i, "region_id": row.id, "generation_id": row.generation_id, "anatomy": row.anatomy}
        for i, row in enumerate(gone)
    ]
    connection.execute(_ADD_REMOVAL, log)
