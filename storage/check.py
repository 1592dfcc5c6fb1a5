"""Everything kept in, what contradicts something else out, beside a node that serves. Reads all files, or their sizes.

Memory bound: the rows and names of one 256th of the archive.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Select, exists, func, not_, select

from storage.catalog import ACTIVE, Catalog
from storage.database import Database
from storage.errors import FileError
from storage.files import Files
from storage.local_maps import SOUND
from storage.records import Disagreement
from storage.schema import GENERATION, INSTANCE, JOB, LOCAL_MAP, PATIENT, REGION, SERIES, STUDY, VECTOR

Report = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Care:
    """How closely files are looked at. `settled_since`: unknown files changed after it (s since 1970) are arriving."""

    report: Report = lambda stage, done, total, text: None
    contents: bool = True  # False: sizes only
    settled_since: float = float("inf")


def check(database: Database, catalog: Catalog, files: Files, care: Care) -> list[Disagreement]:
    """Files against rows; jobs, regions and local maps against each other. Nothing is changed."""
    damaged = [Disagreement("database damaged", "SQLite", told) for told in database.damage()]
    if damaged:
        return damaged  # what a damaged database says of the rest is worth nothing
    found = list(_files(catalog, files, care))
    for number, part in enumerate(_PARTS, start=1):
        found += part(database)
        care.report("rows", number, len(_PARTS), "")
    return found


def _files(catalog: Catalog, files: Files, care: Care) -> Iterator[Disagreement]:
    """Each 256th of them: rows are read before its names and after, so that what comes and goes is no fault."""
    total, done = catalog.count(), 0
    for prefix in files.prefixes():
        before = catalog.files_under(prefix)
        paths = files.under(prefix)
        rows = catalog.files_under(prefix)
        for path in sorted(paths):
            if path in rows:
                yield from _content(catalog, files, path, *rows[path], care=care)
                done += 1
                care.report("files", done, max(total, done), "")
            elif files.changed(path) < care.settled_since:
                yield Disagreement("file unknown", path, "no instance names it")
        for path, (uid, _, _) in sorted(before.items()):
            if path not in paths and path in rows:
                yield Disagreement("file missing", uid, path)


def _content(
    catalog: Catalog, files: Files, path: str, uid: str, sha256: str, size: int, *, care: Care
) -> Iterator[Disagreement]:
    try:
        found = files.digest(path) if care.contents else files.measured(path, sha256)
    except FileError as error:
        row = catalog.instance(uid)
        if row is not None and row.path == path:  # else it was deleted just now
            yield Disagreement("file missing", uid, str(error))
        return
    if (found.sha256, found.size) != (sha256, size):
        yield Disagreement(
            "file differs", uid, f"{found.size} bytes of {found.sha256[:16]}, not {size} of {sha256[:16]}"
        )


def _empty(database: Database) -> Iterator[Disagreement]:
    links: tuple[tuple[Column[Any], Column[int], Column[str]], ...] = (
        (SERIES.c.id, INSTANCE.c.series_row_id, SERIES.c.series_instance_uid),
        (STUDY.c.id, SERIES.c.study_row_id, STUDY.c.study_instance_uid),
        (PATIENT.c.id, STUDY.c.patient_row_id, PATIENT.c.id),
    )
    with database.reading() as connection:
        for row_id, child, name in links:
            bare = select(name).where(not_(exists().where(child == row_id))).order_by(row_id)
            for subject in connection.execute(bare).scalars():
                yield Disagreement("row empty", str(subject), f"a {row_id.table.name} with nothing below it")


def _jobs(database: Database) -> Iterator[Disagreement]:
    has_job = exists().where(JOB.c.instance_id == INSTANCE.c.id, JOB.c.generation_id == GENERATION.c.id)
    jobless: Select[str, int] = (
        select(INSTANCE.c.sop_instance_uid, GENERATION.c.id)
        .select_from(INSTANCE.join(GENERATION, GENERATION.c.state.in_(ACTIVE)))
        .where(~has_job.correlate(INSTANCE, GENERATION))
        .order_by(INSTANCE.c.sop_instance_uid)
    )
    with database.reading() as connection:
        for uid, generation in connection.execute(jobless):
            yield Disagreement("job missing", uid, f"generation {generation}")
        for uid, generation in connection.execute(_unexpected(JOB.c.state != "indexed")):
            yield Disagreement("regions unexpected", uid, f"generation {generation}: its job is not done")
        vectors = select(func.count()).where(VECTOR.c.region_id == REGION.c.id).correlate(REGION).scalar_subquery()
        expected = func.json_array_length(GENERATION.c.projections)
        for uid, generation in connection.execute(_unexpected(vectors != expected)):
            yield Disagreement("regions unexpected", uid, f"generation {generation}: vectors are missing")


def _local_maps(database: Database) -> Iterator[Disagreement]:
    job = (JOB.c.instance_id == LOCAL_MAP.c.instance_id) & (JOB.c.generation_id == LOCAL_MAP.c.generation_id)
    maps = (
        select(INSTANCE.c.sop_instance_uid, LOCAL_MAP.c.generation_id)
        .select_from(LOCAL_MAP.join(INSTANCE).join(JOB, job))
        .order_by(INSTANCE.c.sop_instance_uid)
    )
    with database.reading() as connection:
        for uid, generation in connection.execute(maps.where(JOB.c.state != "indexed")):
            yield Disagreement("local map unexpected", uid, f"generation {generation}: its job is not done")
        for uid, generation in connection.execute(maps.where(not_(SOUND))):
            yield Disagreement("local map damaged", uid, f"generation {generation}: not of the size it says")


def _unexpected(condition: ColumnElement[bool]) -> Select[str, int]:
    """Instances with a region that meets the condition, and the generation it is of."""
    job = (JOB.c.instance_id == REGION.c.instance_id) & (JOB.c.generation_id == REGION.c.generation_id)
    return (
        select(INSTANCE.c.sop_instance_uid, REGION.c.generation_id)
        .select_from(REGION.join(INSTANCE).join(GENERATION, GENERATION.c.id == REGION.c.generation_id).join(JOB, job))
        .where(condition)
        .distinct()
        .order_by(INSTANCE.c.sop_instance_uid)
    )


_PARTS: tuple[Callable[[Database], Iterator[Disagreement]], ...] = (_empty, _jobs, _local_maps)
