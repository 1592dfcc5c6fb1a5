"""The live index in, its numbers out: retrieval, what the approximate index loses, false alarms, boxes beside truth.

Read only: a node may serve the archive meanwhile. Nothing is encoded again. Labels are the detector's own, but where a
stored SR or SEG says what a region is. A large archive is sampled by patients, with a seed.
Memory bound: the live index as a serving node has it, and the sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomnode import truth as confirmed
from dicomnode.calibration import by_patient
from dicomnode.errors import DicomNodeError
from dicomnode.truth import Truth
from encoder import checkpoint
from encoder.boxes import Box
from encoder.errors import CheckpointError
from encoder.evaluate import detection, retrieval, unlike
from encoder.evaluate.detection import GOOD, Overlap
from encoder.evaluate.entries import ANATOMY, Entry, leading
from encoder.evaluate.evaluation import BOOTSTRAP_SEED, Evaluation, Material, rounded
from encoder.evaluate.material import points
from encoder.unlike import NEIGHBOURS
from storage.records import Generation, RegionVector, SearchRequest
from storage.store import Store

MOST_REGIONS = 20_000  # every one is compared with every other
PAGE = 200  # images read at once
ASKED = 40  # regions of each anatomy that ask the index
DEPTHS = (5, 10)  # of the index's answers
OWN_LABELS = (
    "Labels are the detector's own: retrieval says how well regions of one name agree, not that the name is right."
)
NO_TRUTH = "no region of an indexed image is confirmed by a stored SR or SEG"

Report = Callable[[str, int, int, str], None]


@dataclass(frozen=True, eq=False)
class _Asked:
    """One stored region that asked the index, leaving its patient out."""

    patient: str
    recall: dict[int, float]  # of the exact first k, the share that the index returned
    plan: str
    ratio: float  # unlike-archive distance over the threshold; NaN without 5 neighbours or a threshold


def evaluate(store: Store, most: int, report: Report, seed: int = BOOTSTRAP_SEED) -> Evaluation:
    """Everything about the live generation. DicomNodeError when there is none, or nothing is in it."""
    live = store.generations.live()
    if live is None or not store.regions.any(live.id):
        raise DicomNodeError("the archive has no indexed region yet")
    projection = leading(live.model.projections)
    images = store.regions.instances(live.id)
    rows = _sample(store, live, projection, images, most, report)
    entries = [_entry(row) for row in rows]
    asked = _ask(store, live, projection, rows, report, seed)
    told = confirmed.collect(store, report)
    overlaps, labelled = _against(store, live, projection, told.regions)
    summary: dict[str, object] = {
        "labels": OWN_LABELS,
        "generation": live.id,
        "model": live.model.id,
        "images": len(images),
        "patients": len(np.unique(images[:, 1])),
        "regions": store.regions.count(live.id),
        "sample": {"regions": len(rows), "patients": len({row.patient_row_id for row in rows})},
        "detector": detection.summary(overlaps, None, seed) if overlaps else {"note": NO_TRUTH},
        "retrieval": {"anatomy": retrieval.summary(entries, seed, report), **_confirmed_retrieval(labelled, seed)},
        "unlike_archive": _alarms(asked, seed),
        "ann_fidelity": _fidelity(asked),
        "truth": {
            "documents": told.documents,
            "regions": len(told.regions),
            "on_indexed_images": len(overlaps),
            "skipped": dict(sorted(told.skipped.items())),
        },
    }
    vectors, anatomy = points(entries)
    return Evaluation("archive", summary, Material(vectors=vectors, anatomy=anatomy))


def _sample(
    store: Store, live: Generation, projection: str, images: NDArray[np.int64], most: int, report: Report
) -> list[RegionVector]:
    """All regions of patients drawn in turn until there are `most`; always of two patients where there are two."""
    order = by_patient(images)
    place = {image: number for number, image in enumerate(order)}
    rows: list[RegionVector] = []
    wanted = min(most, store.regions.count(live.id))
    for start in range(0, len(order), PAGE):
        page = store.regions.with_vectors(live.id, projection, order[start : start + PAGE])
        rows += sorted(page, key=lambda row: place[row.region.instance_id])
        report("reading vectors", min(len(rows), wanted), wanted, "")
        if len(rows) >= most:
            break
    return _whole_patients(rows, most)


def _whole_patients(rows: Sequence[RegionVector], most: int) -> list[RegionVector]:
    kept: dict[int, list[RegionVector]] = {}
    for row in rows:
        kept.setdefault(row.patient_row_id, []).append(row)
    chosen: list[RegionVector] = []
    for number, of in enumerate(kept.values()):
        if number >= 2 and len(chosen) + len(of) > most:
            break
        chosen += of
    return chosen


def _entry(row: RegionVector) -> Entry:
    return Entry(row.sop_instance_uid, str(row.patient_row_id), row.region.anatomy, {ANATOMY: _unit(row.vector)})


def _unit(stored: NDArray[np.float16]) -> NDArray[np.float32]:
    wide = stored.astype(np.float32)
    return np.asarray(wide / np.linalg.norm(wide), dtype=np.float32)


# --- the index, asked as a query asks it ----------------------------------------------------------------------------


def _ask(
    store: Store, live: Generation, projection: str, rows: Sequence[RegionVector], report: Report, seed: int
) -> list[_Asked]:
    """Some stored regions of each anatomy ask the whole index, and an exact search beside it."""
    everything = store.catalog.candidates(())  # a filter that lets all through makes the search exact
    rng = np.random.default_rng(seed)
    chosen: list[RegionVector] = []
    for anatomy in sorted({row.region.anatomy for row in rows}):
        own = [row for row in rows if row.region.anatomy == anatomy]
        chosen += [own[number] for number in sorted(rng.permutation(len(own))[:ASKED])]
    asked = []
    for number, row in enumerate(chosen):
        asked.append(_asked(store, live, projection, row, everything))
        report("asking the index", number + 1, len(chosen), "")
    return asked


def _asked(store: Store, live: Generation, projection: str, row: RegionVector, everything: NDArray[np.int64]) -> _Asked:
    anatomy = row.region.anatomy
    given = (live.id, projection, (anatomy,), row.vector.astype(np.float32), max(DEPTHS))
    quick = store.vectors.search(SearchRequest(*given, excluded_patient=row.patient_row_id))
    exact = store.vectors.search(SearchRequest(*given, allowed=everything, excluded_patient=row.patient_row_id))
    recall = {}
    for k in DEPTHS:
        wanted = {hit.region_id for hit in exact.hits[:k]}
        found = {hit.region_id for hit in quick.hits[:k]}
        recall[k] = len(wanted & found) / len(wanted) if wanted else float("nan")
    limit, nearest = live.model.thresholds.get(str(anatomy)), quick.hits[:NEIGHBOURS]
    ratio = float("nan")
    if limit is not None and len(nearest) == NEIGHBOURS:
        ratio = (1.0 - sum(hit.score for hit in nearest) / len(nearest)) / max(float(limit), 1e-9)
    return _Asked(str(row.patient_row_id), recall, quick.plans.get(anatomy, "exact"), ratio)


def _fidelity(asked: Sequence[_Asked]) -> dict[str, object]:
    known = [each for each in asked if not np.isnan(each.recall[DEPTHS[0]])]
    recall = {
        f"recall@{k}": rounded(float(np.mean([each.recall[k] for each in known]))) if known else None for k in DEPTHS
    }
    plans = {f"plan_{plan}": sum(each.plan == plan for each in asked) for plan in sorted({each.plan for each in asked})}
    return {**recall, "queries": len(asked), **plans}


def _alarms(asked: Sequence[_Asked], seed: int) -> dict[str, object]:
    known = [each for each in asked if not np.isnan(each.ratio)]
    if not known:
        return {"auroc": {}, "n": 0, "note": unlike.NOT_JUDGED}
    ratios = np.array([each.ratio for each in known])
    alarms = unlike.false_alarms(ratios, [each.patient for each in known], seed)
    return {"auroc": {}, **alarms, "thresholds": "stored with the generation"}


# --- truth of stored SRs and SEGs -----------------------------------------------------------------------------------


def _against(
    store: Store, live: Generation, projection: str, told: Sequence[Truth]
) -> tuple[list[Overlap], list[Entry]]:
    """The stored box of each confirmed region's name beside it; its vector where the two overlap by half."""
    means = _mean_boxes(store, live)
    vectors = store.regions.with_vectors(live.id, projection, sorted({each.instance.id for each in told}))
    stored: dict[int, dict[int, RegionVector]] = {}
    for row in vectors:
        stored.setdefault(row.region.instance_id, {})[row.region.anatomy] = row
    overlaps, labelled = [], []
    for each in told:
        if each.instance.id not in stored:
            continue
        own = stored[each.instance.id].get(each.anatomy)
        iou = each.box.iou(Box(*own.region.box)) if own else 0.0
        patient = str(each.instance.patient_row_id)
        mean = means.get(each.anatomy)
        overlaps.append(
            Overlap(
                patient, each.anatomy, iou, each.mean_iou(mean) if mean else None, own.region.presence if own else None
            )
        )
        vector = {ANATOMY: _unit(own.vector)} if own and iou >= GOOD else {}
        labelled.append(Entry(each.instance.sop_instance_uid, patient, each.anatomy, vector))
    return overlaps, labelled


def _mean_boxes(store: Store, live: Generation) -> dict[int, tuple[float, ...]]:
    """Of the generation's model; none where its folder is gone."""
    try:
        return dict(checkpoint.describe(store.root / live.model.path).mean_boxes)
    except CheckpointError:
        return {}


def _confirmed_retrieval(labelled: Sequence[Entry], seed: int) -> dict[str, object]:
    return {"truth": retrieval.summary(labelled, seed)} if labelled else {}
