"""A folder of labelled films and a pipeline go in, one JSON object of MODELS.md section 4 comes out."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from encoder.errors import EncoderError
from encoder.evaluate import detection, retrieval
from encoder.pipeline import Analysis, Pipeline
from encoder.train.data import HELD, Film, read_films

Report = Callable[[str, int, int, str], None]  # stage, done, total, text
PROJECTION = "anatomy"
EVERY = "all"
BOOTSTRAP_SEED = 0


def evaluate_films(
    data: Path, pipeline: Pipeline, split: str | None = None, report: Report | None = None
) -> dict[str, object]:
    """Detector and retrieval over the films of one split, with the trivial rows.

    `split`: a name that records carry, or "all"; None is the held-out split where any record is so marked, else all.

    A film that is no picture is skipped and counted with its reason. TrainingDataError when the folder has another
    layout. Keys of what is not measured here (finding, unlike_archive) are absent.
    """
    films = _chosen(read_films(data), split)
    skipped: Counter[str] = Counter()
    overlaps: list[detection.Overlap] = []
    entries: list[retrieval.Entry] = []
    counted = detection.Presence()
    seen: list[Film] = []
    for number, film in enumerate(films):
        try:
            analysis = pipeline.analyse(film.image)
        except EncoderError as error:
            skipped[type(error).__name__] += 1
            continue
        overlaps += detection.overlaps(film, analysis, pipeline.card.mean_boxes)
        counted += detection.presence(film, pipeline.analyse, analysis)
        entries += entries_of(film, analysis)
        seen.append(film)
        if report:
            report("evaluate", number + 1, len(films), film.id)
    return {
        "detector": detection.summary(overlaps, counted),
        "retrieval": {PROJECTION: retrieval.summary(entries, BOOTSTRAP_SEED)},
        "films": len(seen),
        "patients": len({film.patient for film in seen}),
        "skipped": dict(sorted(skipped.items())),
        "splits": sorted({film.split for film in seen}),
        "model": pipeline.card.model_id,
    }


def _chosen(films: Sequence[Film], split: str | None) -> list[Film]:
    name = split or (HELD if any(film.split == HELD for film in films) else EVERY)
    return [film for film in films if name in (EVERY, film.split)]


def entries_of(film: Film, analysis: Analysis) -> list[retrieval.Entry]:
    """Each labelled region that lies in the film, with the vector of the detector's box of that name."""
    height, width = film.image.shape
    row = {region.anatomy: number for number, region in enumerate(analysis.regions)}
    image = np.asarray(film.image, dtype=np.float32)
    entries = []
    for anatomy, box in film.regions.items():
        if not box.clipped(width, height).area > 0:
            continue
        at = row.get(anatomy)
        vector = None if at is None else analysis.vectors[PROJECTION][at]
        raw = None if at is None else retrieval.raw_pixels(image, analysis.regions[at].box)
        entries.append(retrieval.Entry(film.id, film.patient, anatomy, vector, raw))
    return entries
