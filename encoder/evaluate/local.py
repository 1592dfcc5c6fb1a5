"""Films and a pipeline with a local head go in, how well a small ROI finds where it looks alike comes out.

Two measures. The control pastes the same made-up thing into the asking film and into others, each at a known place of
the same region: the match has to lie there. The nodules are real: an ROI is the box of a nodule, and an answer counts
when what it points at in the other patient overlaps a nodule; beside it stand chance, and region vectors alone, which
know the region and have to guess the place (the asking one's own, carried over).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.data import Film
from encoder.local import LocalMap, Match, match, patch
from encoder.metrics import bootstrap_interval
from encoder.pipeline import Analysis, Pipeline
from encoder.train.pasted import Thing, paste, thing

ZONES = tuple(
    VOCABULARY.named(f"{side} {part} lung zone").index
    for side in ("right", "left")
    for part in ("upper", "mid", "lower")
)
ASKED, ANSWERING = 72, 4  # control: things, and films that each is pasted into beside the asking one
SEED = 50_000
# Of the film's range and of its longer side: from there on a thing is plain to see.
CONTRAST, SIDE = 0.3, 0.04
FIRST = 5  # answers of a nodule that are looked at
DRAWS = 64  # random places for chance
NO_MAP = "no local map: the model set has no local head, or finds no region"
TOO_FEW = "no two films that show the same lung zone, and no nodule to ask for"


@dataclass(frozen=True, eq=False)
class Located:
    """A film and what the pipeline says of it."""

    film: Film
    analysis: Analysis


def summary(located: Sequence[Located], pipeline: Pipeline, seed: int) -> dict[str, object]:
    """The `local` object: `control` and `nodules`, each where it can be measured; a note where neither can."""
    mapped = [each for each in located if each.analysis.local is not None]
    if not mapped:
        return {"note": NO_MAP}
    found = {"control": control([each.film for each in mapped], pipeline), "nodules": nodules(mapped, seed)}
    measured: dict[str, object] = {name: value for name, value in found.items() if value is not None}
    return measured or {"note": TOO_FEW}


def control(films: Sequence[Film], pipeline: Pipeline) -> dict[str, object] | None:
    """The share of matches that lie on the pasted thing, also of the plain ones alone.

    None without a local head or enough films.
    """
    rng = np.random.default_rng(SEED)
    shown = {zone: [film for film in films if _shows(film, zone)] for zone in ZONES}
    zones = [zone for zone, of in shown.items() if len(of) > 1]
    if not zones:
        return None
    right: list[float] = []
    clear: list[float] = []
    chances: list[float] = []
    things: list[int] = []
    for number in range(ASKED):
        what = thing(rng)
        plain = abs(what.contrast) >= CONTRAST and what.side >= SIDE
        zone = int(rng.choice(zones))
        chosen = shown[zone]
        order = rng.permutation(len(chosen))[: ANSWERING + 1]
        placed = [_pasted(chosen[i], zone, what.again(rng), pipeline, rng) for i in order]
        asking, asked, _ = placed[0]
        for local, truth, region in placed[1:]:
            if asking is not None and local is not None:
                best = match(patch(asking, asked), local, region)
                right.append(float(best is not None and _on(best, truth)))
                clear += right[-1:] if plain else []
                things.append(number)
                chances.append(min(1.0, truth.area / max(region.area, 1.0)))
    if not right:
        return None
    low, high = bootstrap_interval(np.array(right), np.zeros(len(right), np.int64), np.array(things), SEED)
    found: dict[str, object] = {"hit": _mean(right), "chance": _mean(chances), "n": len(right)}
    found["ci95"] = [round(low, 4), round(high, 4)]  # over things
    return {**found, "clear_hit": _mean(clear), "clear_n": len(clear)} if clear else found


def nodules(located: Sequence[Located], seed: int) -> dict[str, object] | None:
    """The share of first answers that overlap a nodule. None without nodules or a local head."""
    rng = np.random.default_rng(SEED)
    rows: list[tuple[float, float, float]] = []
    patients: list[str] = []
    for asking in located:
        for zone in _zones_of(asking):
            answers = _answers(asking, zone, located)
            if len(answers) < FIRST:
                continue
            by_vector = sorted(answers, key=lambda each: (-each.region_score, each.film.id))[:FIRST]
            by_place = sorted(answers, key=lambda each: (-each.match.score, each.film.id))[:FIRST]
            rows.append(
                (
                    float(np.mean([_overlaps(each.match.box, each.film) for each in by_place])),
                    float(np.mean([_overlaps(each.carried, each.film) for each in by_vector])),
                    float(np.mean([_random(each, rng) for each in answers])),
                )
            )
            patients.append(asking.film.patient)
    if not rows:
        return None
    local, vectors, chance = np.array(rows).T
    _, numbers = np.unique(patients, return_inverse=True)
    low, high = bootstrap_interval(local, np.zeros(len(rows), np.int64), numbers.astype(np.int64), seed)
    return {
        "on_a_nodule@5": _mean(local),
        "ci95": [round(low, 4), round(high, 4)],
        "region_vectors_alone": _mean(vectors),
        "chance": _mean(chance),
        "queries": len(rows),
        "films_with_nodule": sum(each.film.lesion is not None for each in located),
    }


@dataclass(frozen=True, eq=False)
class _Answer:
    film: Film
    region: Box
    region_score: float
    match: Match
    carried: Box  # the asking ROI at the same place of this film's region


def _shows(film: Film, zone: int) -> bool:
    """Whether some of the zone lies in the film."""
    height, width = film.size
    return zone in film.regions and film.regions[zone].clipped(width, height).area > 0


def _zones_of(each: Located) -> list[int]:
    """The lung zone that holds the middle of the film's nodule."""
    lesion = each.film.lesion
    if lesion is None or each.analysis.local is None:
        return []
    found = {region.anatomy: region.box for region in each.analysis.regions}
    return [zone for zone in ZONES if zone in found and _holds(found[zone], lesion)][:1]


def _answers(asking: Located, zone: int, located: Sequence[Located]) -> list[_Answer]:
    lesion, local = asking.film.lesion, asking.analysis.local
    assert lesion is not None and local is not None  # _zones_of
    asked = patch(local, lesion)
    own, vector = _region(asking, zone)
    found = []
    for each in located:
        if each.film.patient == asking.film.patient or each.analysis.local is None:
            continue
        if not any(region.anatomy == zone for region in each.analysis.regions):
            continue
        box, other = _region(each, zone)
        best = match(asked, each.analysis.local, box)
        if best is not None:
            found.append(_Answer(each.film, box, float(vector @ other), best, _carried(lesion, own, box)))
    return found


def _region(each: Located, zone: int) -> tuple[Box, NDArray[np.float32]]:
    row = next(n for n, region in enumerate(each.analysis.regions) if region.anatomy == zone)
    return each.analysis.regions[row].box, each.analysis.vectors["anatomy"][row]


def _carried(roi: Box, own: Box, other: Box) -> Box:
    """The same place and size in another film's region, as shares of its sides."""
    sx, sy = other.width / own.width, other.height / own.height
    x, y = other.x1 + (roi.x1 - own.x1) * sx, other.y1 + (roi.y1 - own.y1) * sy
    return Box(x, y, x + roi.width * sx, y + roi.height * sy)


def _random(answer: _Answer, rng: np.random.Generator) -> float:
    """How often a box of that size, anywhere in the region, overlaps a nodule of the film."""
    lesion, region, size = answer.film.lesion, answer.region, answer.match.box
    if lesion is None:
        return 0.0
    x = rng.uniform(region.x1, region.x2, DRAWS) - size.width / 2
    y = rng.uniform(region.y1, region.y2, DRAWS) - size.height / 2
    meets = (x < lesion.x2) & (x + size.width > lesion.x1) & (y < lesion.y2) & (y + size.height > lesion.y1)
    return float(meets.mean())


def _overlaps(box: Box, film: Film) -> bool:
    return film.lesion is not None and box.intersection(film.lesion).area > 0


def _holds(region: Box, lesion: Box) -> bool:
    x, y = (lesion.x1 + lesion.x2) / 2, (lesion.y1 + lesion.y2) / 2
    return region.x1 <= x < region.x2 and region.y1 <= y < region.y2


def _on(best: Match, truth: Box) -> bool:
    """Whether the middle of the match lies on the thing."""
    x, y = (best.box.x1 + best.box.x2) / 2, (best.box.y1 + best.box.y2) / 2
    return truth.x1 <= x < truth.x2 and truth.y1 <= y < truth.y2


def _pasted(
    film: Film, zone: int, what: Thing, pipeline: Pipeline, rng: np.random.Generator
) -> tuple[LocalMap | None, Box, Box]:
    """The film's local map with the thing somewhere in the zone, the thing's box, and the zone's."""
    height, width = film.image.shape
    region = film.regions[zone].clipped(width, height)
    x, y = rng.uniform(region.x1, region.x2), rng.uniform(region.y1, region.y2)
    span = float(np.quantile(film.image, 0.95) - np.quantile(film.image, 0.05))
    half = what.side * max(height, width) / 2
    box = Box(x - half, y - half, x + half, y + half)
    seen = pipeline.embed(paste(film.image, what, x, y, span), [region])
    return seen.local, box, region


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    return round(float(np.mean(values)), 4)
