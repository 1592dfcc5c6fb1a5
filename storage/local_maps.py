"""Local features of images in, rows out: a grid of int8 cells for each (generation, instance), read many at a time.

A row whose blob is not of the size that it says is read as absent, and made again by who fills in what is missing.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from sqlalchemy import Connection, Double, and_, cast, delete, func, insert, not_, or_, select

from storage.database import Database
from storage.errors import VectorError
from storage.records import LocalFeatures, Unmapped
from storage.schema import INSTANCE, JOB, LOCAL_MAP

CHUNK = 50  # maps read or deleted in one statement: each is some tens of KiB

_SIDES = (LOCAL_MAP.c["rows"], LOCAL_MAP.c["columns"], LOCAL_MAP.c.channels)
_SIZE = cast(_SIDES[0], Double) * _SIDES[1] * _SIDES[2]  # no whole number of a damaged row may overflow
SOUND = and_(
    *(side > 0 for side in _SIDES),
    func.length(LOCAL_MAP.c.data) == _SIZE,
    LOCAL_MAP.c.x2 > LOCAL_MAP.c.x1,
    LOCAL_MAP.c.y2 > LOCAL_MAP.c.y1,
)
_INDEXED = INSTANCE.join(JOB).outerjoin(
    LOCAL_MAP,
    and_(LOCAL_MAP.c.instance_id == INSTANCE.c.id, LOCAL_MAP.c.generation_id == JOB.c.generation_id),
)
_LACKING = (JOB.c.state == "indexed", or_(LOCAL_MAP.c.instance_id.is_(None), not_(SOUND)))


class LocalMaps:
    """Reading local features, and adding those that an index of before lacks. Safe for threads and processes.

    Memory bound: CHUNK maps.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, generation_id: int, instance_id: int) -> LocalFeatures | None:
        """The instance's local features in that generation; None when there are none."""
        return dict(self.many(generation_id, [instance_id])).get(instance_id)

    def many(self, generation_id: int, instance_ids: Iterable[int]) -> Iterator[tuple[int, LocalFeatures]]:
        """(instance id, features) of those that have them, in no order."""
        ids = list(dict.fromkeys(int(one) for one in instance_ids))
        for start in range(0, len(ids), CHUNK):
            query = select(LOCAL_MAP).where(
                LOCAL_MAP.c.generation_id == generation_id, LOCAL_MAP.c.instance_id.in_(ids[start : start + CHUNK])
            )
            with self._database.reading() as connection:
                rows = connection.execute(query).mappings().all()
            for row in rows:
                features = _features(row)
                if features is not None:
                    yield row["instance_id"], features

    def missing(self, generation_id: int, after: int = 0, limit: int = CHUNK) -> list[Unmapped]:
        """Up to `limit` indexed instances of a row id above `after` that have no sound map in the generation."""
        query = (
            select(INSTANCE.c.id.label("instance_id"), INSTANCE.c.path, INSTANCE.c.sha256)
            .select_from(_INDEXED)
            .where(JOB.c.generation_id == generation_id, *_LACKING, INSTANCE.c.id > after)
            .order_by(INSTANCE.c.id)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [Unmapped(**row) for row in connection.execute(query).mappings()]

    def count_missing(self, generation_id: int) -> int:
        """How many instances `missing` would name in all."""
        query = select(func.count()).select_from(_INDEXED).where(JOB.c.generation_id == generation_id, *_LACKING)
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def add(self, generation_id: int, of: Unmapped, features: LocalFeatures) -> bool:
        """Give an indexed instance its map. False, and nothing is written, when it was replaced meanwhile.

        VectorError when the map is no grid.
        """
        unchanged = (
            select(INSTANCE.c.id)
            .select_from(INSTANCE.join(JOB))
            .where(INSTANCE.c.id == of.instance_id, INSTANCE.c.sha256 == of.sha256)
            .where(JOB.c.generation_id == generation_id, JOB.c.state == "indexed")
            .with_for_update()
        )

        def work(connection: Connection) -> bool:
            if connection.execute(unchanged).first() is None:
                return False
            delete_map(connection, of.instance_id, generation_id)
            add_map(connection, generation_id, of.instance_id, features)
            return True

        return self._database.write(work)


def _features(row: Any) -> LocalFeatures | None:
    """None when the row does not hold what it says."""
    shape = row["rows"], row["columns"], row["channels"]
    area = row["x1"], row["y1"], row["x2"], row["y2"]
    sound = min(shape) > 0 and len(row["data"]) == shape[0] * shape[1] * shape[2] and _is_area(area)
    return LocalFeatures(np.frombuffer(row["data"], np.int8).reshape(shape), area) if sound else None


def _is_area(box: tuple[float, float, float, float]) -> bool:
    return bool(np.isfinite(box).all() and box[0] < box[2] and box[1] < box[3])


# --- writing, inside a caller's transaction ------------------------------------------------------------------------


def add_map(connection: Connection, generation_id: int, instance_id: int, features: LocalFeatures) -> None:
    """The instance has none in that generation. VectorError when the features are no grid over an area."""
    cells = features.cells
    if cells.dtype != np.int8 or cells.ndim != 3 or not cells.size or not _is_area(features.area):
        raise VectorError(f"local features of shape {cells.shape} and type {cells.dtype} over {features.area}")
    sides = dict(zip(("rows", "columns", "channels"), cells.shape, strict=True))
    area = dict(zip(("x1", "y1", "x2", "y2"), map(float, features.area), strict=True))
    owner = {"generation_id": generation_id, "instance_id": instance_id}
    connection.execute(insert(LOCAL_MAP).values(**owner, **sides, **area, data=cells.tobytes()))


def delete_map(connection: Connection, instance_id: int, generation_id: int | None = None) -> None:
    """Delete an instance's map, of one generation or of all."""
    condition = [LOCAL_MAP.c.instance_id == instance_id]
    if generation_id is not None:
        condition.append(LOCAL_MAP.c.generation_id == generation_id)
    connection.execute(delete(LOCAL_MAP).where(*condition))


def delete_some(connection: Connection, generation_id: int) -> bool:
    """Delete some of a generation's maps; whether there were any."""
    query = select(LOCAL_MAP.c.instance_id).where(LOCAL_MAP.c.generation_id == generation_id).limit(CHUNK)
    ids = list(connection.execute(query).scalars())
    if ids:
        connection.execute(
            delete(LOCAL_MAP).where(LOCAL_MAP.c.generation_id == generation_id, LOCAL_MAP.c.instance_id.in_(ids))
        )
    return bool(ids)
