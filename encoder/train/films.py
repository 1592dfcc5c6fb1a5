"""Options go in; the films to train on and the films to hold out come out, and data.json says what was read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from encoder.data import HELD, TRAIN, Collection, Film, Reason, Skipped, fingerprint, read, split
from encoder.errors import ImageError, TrainingDataError
from encoder.train.augment import Cached, cached
from encoder.train.loop import Report, TrainOptions
from encoder.train.shelf import Shelf

HELD_MOST = 512  # held films: all of them are looked at after each epoch, and their views are kept in memory
ENOUGH = 20  # held films that speak for films never seen
NAMED = 3  # records that a reported line names; all of them are in data.json

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a run works on."""

    kept: Sequence[Cached]
    held: Sequence[Cached]
    fingerprint: str  # of the whole data set, for the manifest

    @property
    def unseen(self) -> list[Film]:
        """The held films; all of them where they are too few to say anything."""
        held = _films(self.held)
        return held if len(held) >= ENOUGH else self.films

    @property
    def films(self) -> list[Film]:
        """The films to train on and the held ones, each once."""
        return list({each.id: each for each in (*_films(self.kept), *_films(self.held))}.values())


def prepare(options: TrainOptions, task: str, size: int, report: Report) -> Prepared:
    """Reads the data folder and shrinks its films; writes data.json into the run folder.

    TrainingDataError when the folder cannot be used, or all its films are of one patient.
    """
    collection = read(options.data, options.images, options.decoder, report).of_source(options.source)
    report("read films", len(collection.films), len(collection.films), "")
    kept, held = (split(collection.films, name) for name in (TRAIN, HELD))
    patients = {film.patient for film in (*kept, *held)}
    if len(patients) == 1:
        raise TrainingDataError(f"all films are of patient {patients.pop()}: one to hold out is needed")
    run = options.out / "runs" / task
    run.mkdir(parents=True, exist_ok=True)
    shelves, unreadable = _shelved((kept, spread(held, HELD_MOST)), run, size, report)
    collection = replace(collection, left_out=(*collection.left_out, *unreadable))
    _tell(collection, report)
    content = {**collection.plain(), "train": len(shelves[0]), "held": len(shelves[1])}
    (run / "data.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return Prepared(shelves[0], shelves[1] or shelves[0][-2:], fingerprint(collection.films))


def spread(films: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly from first to last."""
    step = max(1.0, len(films) / most)
    return [films[int(number * step)] for number in range(min(most, len(films)))]


def _shelved(
    parts: Sequence[Sequence[Film]], folder: Path, size: int, report: Report
) -> tuple[list[Shelf], list[Skipped]]:
    shelves, unreadable = [], []
    done, total = 0, sum(map(len, parts))
    for films in parts:
        shelf = Shelf(folder)
        for film in films:
            try:
                shelf.add(cached(film, size))
            except ImageError as error:
                unreadable.append(Skipped(film.id, Reason.UNREADABLE, str(error)))
            done += 1
            report("shrink films", done, total, "")
        shelves.append(shelf)
    return shelves, unreadable


def _tell(collection: Collection, report: Report) -> None:
    """A line for each reason."""
    for reason, lines in groupby(sorted(collection.left_out, key=lambda line: line.reason), lambda line: line.reason):
        records = list(dict.fromkeys(line.record for line in lines))
        more = f" and {len(records) - NAMED} more, see data.json" if len(records) > NAMED else ""
        report(f"skipped, {reason}", 0, 0, f"{collection.skipped[reason]} ({', '.join(records[:NAMED])}{more})")


def _films(cached_films: Sequence[Cached]) -> list[Film]:
    return cached_films.films if isinstance(cached_films, Shelf) else [each.film for each in cached_films]
