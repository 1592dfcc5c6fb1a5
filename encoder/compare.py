"""Films and names of objectives go in, one table comes out: what each way of training is worth on held patients.

Every objective is trained with the same budget, from scratch, once for each seed, and measured with the boxes of the
same detector: retrieval over the whole ranking, and the accuracy of naming one of the 29 regions, which is the column
of the paper's table (arXiv 2305.05598). Raw pixels stand beside them. Where all are near 1, what is left to tell them
apart is inside an anatomy: whether a region of the same film, taken smaller, is nearer than those of other patients.
A run that is there already is not trained again.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.checkpoint import PARTS, read_bytes, read_manifest
from encoder.data import HELD, Film, read, split
from encoder.errors import TrainingDataError
from encoder.evaluate import retrieval
from encoder.evaluate.entries import Entry
from encoder.evaluate.evaluation import BOOTSTRAP_SEED
from encoder.evaluate.films import entries_of
from encoder.evaluate.moved import PLAIN, views
from encoder.pipeline import Pipeline
from encoder.roi_encoder import EncoderShape
from encoder.train.encoder import OBJECTIVES, train_encoder
from encoder.train.films import spread
from encoder.train.loop import Report, TrainOptions

COLUMNS = ("map", "p@5", "knn_accuracy", "accuracy", "same_film_hit@1")
SMALLER = "scaled_0.8"  # the view of `evaluate.moved` in which a film asks for itself


@dataclass(frozen=True)
class Comparison:
    """What is compared."""

    objectives: tuple[str, ...] = tuple(OBJECTIVES)
    seeds: tuple[int, ...] = (0, 1, 2)
    size: int = EncoderShape.size  # pixels, side of the frame
    crops: int = 0  # side of a crop for each region instead of one pass over the film
    split: str = HELD  # the films that are measured
    most: int = 2_000  # of them


def compare(options: TrainOptions, wanted: Comparison, detector: Path, report: Report) -> dict[str, Any]:
    """Train and measure all of them under `options.out`; returns what is also written to its comparison.json.

    CheckpointError when the detector is missing or damaged.
    """
    read_bytes(detector, read_manifest(detector, "detector"))  # now, and not after the first reading of the films
    films = spread(split(read(options.data, options.images, options.decoder).films, wanted.split), wanted.most)
    shape = EncoderShape(size=wanted.size, crops=wanted.crops)
    runs: dict[str, list[dict[str, Any]]] = {}
    total = len(wanted.objectives) * len(wanted.seeds)
    for seed in wanted.seeds:  # all objectives of a seed first: a comparison that is stopped has compared something
        for objective in wanted.objectives:
            done = sum(len(rows) for rows in runs.values())
            report(f"compare: {objective}, seed {seed}", done, total, "")
            out = options.out / f"{objective}-{seed}"
            one = replace(options, out=out, seed=seed, objective=objective, from_scratch=True)
            runs.setdefault(objective, []).append(_run(one, shape, detector, films, report))
    result = {"films": len(films), "runs": runs, "table": _table(runs)}
    (options.out / "comparison.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _run(
    options: TrainOptions, shape: EncoderShape, detector: Path, films: Sequence[Film], report: Report
) -> dict[str, Any]:
    """One objective, one seed."""
    kept = options.out / "result.json"
    asked = {"epochs": options.epochs, "films": len(films), **shape.plain()}
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if found["asked"] != asked:
            raise TrainingDataError(f"{options.out.name}: a run of another size, length or split is there already")
        return found
    options.out.mkdir(parents=True, exist_ok=True)
    for name in (f"{PARTS[0]}.json", f"{PARTS[0]}.safetensors"):
        shutil.copyfile(detector / name, options.out / name)
    started = time.monotonic()
    train_encoder(replace(options, resume=True), report, shape)
    minutes = (time.monotonic() - started) / 60
    result = {**_measured(options.out, films), "asked": asked, "seed": options.seed, "minutes": round(minutes, 2)}
    kept.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _measured(folder: Path, films: Sequence[Film]) -> dict[str, Any]:
    """Retrieval with the detector's boxes, the accuracy of the classifier on them, and what a film costs."""
    pipeline = Pipeline.load(folder)
    entries: list[Entry] = []
    right, asked, spent = 0, 0, []
    for film in films:
        started = time.monotonic()
        analysis = pipeline.analyse(film.image)
        spent.append(time.monotonic() - started)
        entries += entries_of(film, analysis)
        known = [region for region in analysis.regions if region.anatomy in film.regions]
        if known:
            named = pipeline.embed(film.image, [region.box for region in known]).anatomy_probability.argmax(axis=1)
            right += sum(int(a) == region.anatomy for a, region in zip(named, known, strict=True))
            asked += len(known)
    summary = retrieval.summary(entries, BOOTSTRAP_SEED)
    return {
        **summary,
        "same_film_hit@1": _same_film(pipeline, films),
        "accuracy": round(right / max(asked, 1), 4),
        "ms_a_film": round(1000 * float(np.median(spent)), 1),
    }


def _same_film(pipeline: Pipeline, films: Sequence[Film]) -> float:
    """Macro over anatomies: the share of regions of a smaller view whose nearest is that of the film itself."""
    stored: dict[int, list[tuple[str, NDArray[np.float32]]]] = {}
    asked: list[tuple[int, str, NDArray[np.float32]]] = []
    for film in films:
        for view in views(film, (PLAIN, SMALLER)):
            if view.truth:
                vectors = pipeline.embed(view.image, list(view.truth.values())).vectors["anatomy"]
                for anatomy, vector in zip(view.truth, vectors, strict=True):
                    if view.kind == PLAIN:
                        stored.setdefault(anatomy, []).append((film.id, vector))
                    else:
                        asked.append((anatomy, film.id, vector))
    hits: dict[int, list[bool]] = {}
    for anatomy, film_id, vector in asked:
        if anatomy not in stored:
            continue  # only the edge of it is on the film as it is
        known = stored[anatomy]
        best = int(np.argmax(np.stack([row for _, row in known]) @ vector))
        hits.setdefault(anatomy, []).append(known[best][0] == film_id)
    return round(float(np.mean([np.mean(of) for of in hits.values()])), 4)


def _table(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row an objective, best mean mAP first: mean, lowest and highest over the seeds, and the widest interval."""
    rows = [_row(objective, of) for objective, of in runs.items()]
    rows.sort(key=lambda row: -float(row["map"]))
    first = next(iter(runs.values()))[0]
    rows.append({"objective": "raw 16 x 16 pixels", "map": first["raw_pixels_map"]})
    return rows


def _row(objective: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"objective": objective, "seeds": len(runs)}
    for column in COLUMNS:
        values = [float(run[column]) for run in runs]
        row |= {column: round(float(np.mean(values)), 4), f"{column}_range": [min(values), max(values)]}
    row["map_ci95"] = [min(run["ci95"][0] for run in runs), max(run["ci95"][1] for run in runs)]
    row["minutes"] = round(float(np.mean([run["minutes"] for run in runs])), 2)
    row["ms_a_film"] = round(float(np.median([run["ms_a_film"] for run in runs])), 1)
    return row
