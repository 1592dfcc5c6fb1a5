"""SQL's vectors as arrays: what partitions are filled with and answers are computed from."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, bindparam, delete, func, select, update

from storage.matching import LEVELS, joined
from storage.regions import STORED, chunks
from storage.schema import COUNTER, INSTANCE, REGION, REMOVAL, SERIES, STUDY, VECTOR
from storage.vectors.exact import Labels
from storage.vectors.index import Ids
from storage.vectors.partition import Key

PAGE = 5_000  # rows decoded at once

_PARTITION = (
    REGION.c.generation_id == bindparam("generation"),
    REGION.c.anatomy == bindparam("anatomy"),
    REGION.c.id <= bindparam("upto"),
)
_NEW = (
    select(REGION.c.id, REGION.c.instance_id, STUDY.c.patient_row_id, VECTOR.c.data)
    .select_from(REGION.join(VECTOR).join(INSTANCE).join(SERIES).join(STUDY))
    .where(*_PARTITION, REGION.c.id > bindparam("after"), VECTOR.c.projection == bindparam("place"))
    .order_by(REGION.c.id)
)
_GONE = select(REMOVAL.c.region_id).where(
    REMOVAL.c.generation_id == bindparam("generation"),
    REMOVAL.c.anatomy == bindparam("anatomy"),
    REMOVAL.c.seq <= bindparam("upto"),
    REMOVAL.c.seq > bindparam("after"),
)
_EXTENT = select(func.count(), func.coalesce(func.sum(REGION.c.id), 0)).where(*_PARTITION)
_STORED = select(
    REGION.c.id, REGION.c.anatomy, INSTANCE.c.sop_instance_uid, STUDY.c.patient_row_id, VECTOR.c.data
).select_from(joined(LEVELS).join(REGION).join(VECTOR))
_OF_REGIONS = _STORED.where(
    VECTOR.c.projection == bindparam("place"), REGION.c.id.in_(bindparam("regions", expanding=True))
)


@dataclass(frozen=True)
class StoredRow:
    """A region as an answer is computed from it."""

    region_id: int
    anatomy: int
    sop_instance_uid: str
    data: bytes  # (dim,) fp16


def added(connection: Connection, key: Key, after: int, upto: int) -> Iterator[tuple[Ids, NDArray[np.float16], Labels]]:
    """A partition's regions written in (after, upto], in pages: ids, stored vectors, (instance, patient) ids."""
    values = {"generation": key.generation, "anatomy": key.anatomy, "place": key.place, "after": after, "upto": upto}
    with connection.execute(_NEW, values, execution_options={"stream_results": True}) as result:
        for page in result.partitions(PAGE):
            yield _arrays(page)


def _arrays(page: Sequence[Row[int, int, int, bytes]]) -> tuple[Ids, NDArray[np.float16], Labels]:
    ids, instances, patients, data = zip(*page, strict=True)
    labels = np.array((instances, patients), np.int64).T
    return np.array(ids, np.int64), stack(data), labels


def stack(data: Iterable[bytes]) -> NDArray[np.float16]:
    """Stored vectors, at least one, as (n, dim) fp16."""
    rows = list(data)
    return np.frombuffer(b"".join(rows), STORED).reshape(len(rows), -1)


def removed(connection: Connection, key: Key, after: int, upto: int) -> Ids:
    """A partition's regions that went in (after, upto]."""
    values = {"generation": key.generation, "anatomy": key.anatomy, "after": after, "upto": upto}
    return np.fromiter(connection.execute(_GONE, values).scalars(), np.int64)


def prune(connection: Connection, upto: int) -> int:
    """Delete some of the removals up to a value of the change counter, oldest first, and note how far; how many."""
    oldest = select(REMOVAL.c.seq).where(REMOVAL.c.seq <= upto).order_by(REMOVAL.c.seq).limit(PAGE)
    seqs = list(connection.execute(oldest).scalars())
    if seqs:
        connection.execute(delete(REMOVAL).where(REMOVAL.c.seq <= seqs[-1]))
        behind = (COUNTER.c.name == "pruned", COUNTER.c.value < seqs[-1])
        connection.execute(update(COUNTER).where(*behind).values(value=seqs[-1]))
    return len(seqs)


def extent(connection: Connection, key: Key, upto: int) -> tuple[int, int]:
    """How many regions a partition has, and the sum of their ids: what a complete index agrees with."""
    values = {"generation": key.generation, "anatomy": key.anatomy, "upto": upto}
    count, total = connection.execute(_EXTENT, values).one()
    return int(count), int(total)


def stored(connection: Connection, place: int, region_ids: Iterable[int]) -> list[StoredRow]:
    """These regions, in no order; those that are gone are left out."""
    values = ({"place": place, "regions": chunk} for chunk in chunks(region_ids))
    return [row for chunk in values for row in _rows(connection.execute(_OF_REGIONS, chunk))]


def gathered(
    connection: Connection, key: Key, instances: Iterable[int], excluded_patient: int | None
) -> list[StoredRow]:
    """The partition's regions on these instances, in no order."""
    query = _STORED.where(
        VECTOR.c.projection == key.place,
        REGION.c.generation_id == key.generation,
        REGION.c.anatomy == key.anatomy,
    )
    if excluded_patient is not None:
        query = query.where(STUDY.c.patient_row_id != excluded_patient)
    queries = (query.where(REGION.c.instance_id.in_(chunk)) for chunk in chunks(instances))
    return [row for each in queries for row in _rows(connection.execute(each))]


def _rows(result: Iterable[Row[int, int, str, int, bytes]]) -> Iterator[StoredRow]:
    for region_id, anatomy, uid, _, data in result:
        yield StoredRow(region_id, anatomy, uid, data)
