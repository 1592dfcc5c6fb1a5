"""A collection of labelled films and a pipeline go in, the numbers of MODELS.md section 4 and their plots come out.

One pass over the films; a film's pixels are dropped when the next is read.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from encoder.anatomy import VOCABULARY
from encoder.data import HELD, Collection, Film
from encoder.errors import EncoderError, ImageError
from encoder.evaluate import detection, finding, local, material, moved, retrieval, unlike
from encoder.evaluate.entries import ANATOMY, RAW_PIXELS, Entry, leading, raw_pixels
from encoder.evaluate.evaluation import BOOTSTRAP_SEED, Evaluation, Material, Report
from encoder.evaluate.material import Seen
from encoder.pipeline import Analysis, Pipeline

EVERY = "all"
LEAST_PATIENTS = 2  # one alone has nobody to be compared with
CLOSER = 60  # films, drawn with a seed, that are also looked at moved, and asked about as unlike the archive
GALLERY = 20_000  # regions, whole patients drawn with a seed: every one is compared with every other

Picture = NDArray[np.float32]


@dataclass(eq=False)
class _Measured:
    """What one pass over the films collects."""

    seen: list[Seen] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    overlaps: list[detection.Overlap] = field(default_factory=list)
    presence: detection.Presence = field(default_factory=detection.Presence)
    views: list[moved.Placed] = field(default_factory=list)
    probes: list[unlike.Probe] = field(default_factory=list)
    located: list[local.Located] = field(default_factory=list)  # of the gallery: each holds vectors and a local map
    closer: int = 0  # films that were also looked at moved
    skipped: list[tuple[str, str]] = field(default_factory=list)  # film, reason


def evaluate_films(
    collection: Collection,
    pipeline: Pipeline,
    split: str | None = None,
    others: Iterable[Picture] = (),
    report: Report | None = None,
    most: int | None = None,
) -> Evaluation:
    """Detector, retrieval, the unlike-archive warning and small ROIs over the films of one split, with trivial rows.

    `split`: a name that records carry, or "all"; None is the held-out split where any record is so marked, else all.
    `others`: pictures (H, W) of what is no chest film. `most`: films, of whole patients drawn with a seed. A film that
    is no picture is skipped and named.
    """
    films = _of_patients(_chosen(collection.films, split), most)
    gallery = {film.patient for film in _of_patients(films, GALLERY // len(VOCABULARY))}
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    closer = {int(number) for number in rng.permutation(len(films))[:CLOSER]}
    measured = _Measured()
    for number, film in enumerate(films):
        try:
            _measure(film, pipeline, measured, rng if number in closer else None, film.patient in gallery)
        except EncoderError as error:
            measured.skipped.append((film.id, f"{type(error).__name__}: {error}"))
        if report:
            report("films", number + 1, len(films), film.id)
    measured.probes += [probe for picture in others for probe in _foreign(picture, pipeline, measured, rng)]
    return _evaluation(collection, pipeline, measured, report)


def _chosen(films: Sequence[Film], split: str | None) -> list[Film]:
    name = split or (HELD if any(film.split == HELD for film in films) else EVERY)
    return [film for film in films if name in (EVERY, film.split)]


def _of_patients(films: Sequence[Film], most: int | None) -> list[Film]:
    """All films of patients drawn in turn until there are `most`, in the order given; always of two patients."""
    if most is None or len(films) <= most:
        return list(films)
    count = Counter(film.patient for film in films)
    kept: set[str] = set()
    left = most
    for patient in np.random.default_rng(BOOTSTRAP_SEED).permutation(sorted(count)):
        left -= count[str(patient)]
        if left < 0 and len(kept) >= LEAST_PATIENTS:
            break
        kept.add(str(patient))
    return [film for film in films if film.patient in kept]


def _measure(
    film: Film, pipeline: Pipeline, measured: _Measured, rng: np.random.Generator | None, in_gallery: bool
) -> None:
    """Everything about one film; with `rng`, a closer look. EncoderError before anything of it is counted."""
    analysis = pipeline.analyse(film.image)
    overlaps = detection.overlaps(film, analysis, pipeline.card.mean_boxes)
    presence = detection.presence(film, pipeline.analyse, analysis)
    if rng is not None:
        views = [moved.placed(view, pipeline.analyse(view.image)) for view in moved.views(film)]
        probes = unlike.probes(film, pipeline, rng)
        measured.views += [row for rows in views for row in rows]
        measured.probes += probes
        measured.closer += 1
    measured.overlaps += overlaps
    measured.presence += presence
    if in_gallery:
        measured.entries += entries_of(film, analysis)
        measured.located.append(local.Located(film, analysis))
    found = {region.anatomy: region.box for region in analysis.regions}
    measured.seen.append(Seen(film, found, float(np.mean([row.iou for row in overlaps])) if overlaps else 0.0))


def entries_of(film: Film, analysis: Analysis) -> Iterator[Entry]:
    """Each labelled region that lies in the film, with the vectors of the detector's box of that name."""
    height, width = film.size
    row = {region.anatomy: number for number, region in enumerate(analysis.regions)}
    for anatomy, box in film.regions.items():
        if not box.clipped(width, height).area > 0:
            continue
        vectors: dict[str, NDArray[np.float32]] = {}
        if (at := row.get(anatomy)) is not None:
            vectors = {name: rows[at] for name, rows in analysis.vectors.items()}
            vectors[ANATOMY] = vectors[leading(vectors)]
            vectors[RAW_PIXELS] = raw_pixels(film.image, analysis.regions[at].box)
        shown = film.findings.get(anatomy) if film.findings is not None else None
        yield Entry(film.id, film.patient, anatomy, vectors, shown)


def _foreign(picture: Picture, pipeline: Pipeline, measured: _Measured, rng: np.random.Generator) -> list[unlike.Probe]:
    try:
        return unlike.foreign(picture, pipeline, rng)
    except ImageError as error:
        measured.skipped.append(("other picture", f"{type(error).__name__}: {error}"))
        return []


def _evaluation(collection: Collection, pipeline: Pipeline, measured: _Measured, report: Report | None) -> Evaluation:
    neighbours = unlike.Neighbours(measured.entries)
    thresholds = pipeline.card.unlike_thresholds
    unusual, ratios = unlike.summary(
        measured.probes, neighbours, thresholds, BOOTSTRAP_SEED, pipeline.card.unlike_slack
    )
    detected = detection.summary(measured.overlaps, measured.presence, BOOTSTRAP_SEED)
    films = [seen.film for seen in measured.seen]
    summary: dict[str, object] = {
        "detector": {**detected, "moved": moved.summary(measured.views, measured.closer)},
        "retrieval": {
            "anatomy": retrieval.summary(measured.entries, BOOTSTRAP_SEED, report),
            "finding": finding.summary(measured.entries, BOOTSTRAP_SEED),
        },
        "unlike_archive": unusual,
        "local": local.summary(measured.located, pipeline, BOOTSTRAP_SEED),
        "films": len(films),
        "patients": len({film.patient for film in films}),
        "sample": {
            "regions": len(measured.entries),
            "patients": len({entry.patient for entry in measured.entries}),
        },
        "skipped": _skipped(collection, measured),
        "left_out": [str(line) for line in collection.left_out] + [f"{id_}: {why}" for id_, why in measured.skipped],
        "splits": sorted({film.split for film in films}),
        "sources": sorted({film.source for film in films}),
        "model": pipeline.card.model_id,
    }
    vectors, anatomy = material.points(measured.entries)
    return Evaluation("films", summary, Material(material.overlays(measured.seen), ratios, vectors, anatomy))


def _skipped(collection: Collection, measured: _Measured) -> dict[str, int]:
    """By reason: what the reader left out or mended, and films that could not be measured."""
    unread = Counter(reason.partition(":")[0] for _, reason in measured.skipped)
    return dict(sorted({**collection.skipped, **unread}.items()))
