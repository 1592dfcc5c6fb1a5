"""The written rules against the development labels, and where each region must lie."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.data import Outlines, read
from encoder.data.open_films import outlines
from encoder.rules import CONTOURED, derive, derive_from_outlines
from tests.unit.encoder import chests

KEYS = ("RL", "LL", "H", "RCLA", "LCLA")
# Mean IoU with the box that regions.json has for it: contours drawn as masks and rounded give a pixel or two.
LEAST = {
    "right costophrenic angle": 0.94,
    "left costophrenic angle": 0.94,
    "aortic arch": 0.94,
    "upper mediastinum": 0.95,
}


def box(regions: dict[int, Box], name: str) -> Box:
    return regions[VOCABULARY.named(name).index]


@pytest.fixture(scope="module")
def made() -> dict[int, Box]:
    return derive(chests.contours(np.random.default_rng(3)))


def test_every_region_of_the_vocabulary_is_derived(made: dict[int, Box]) -> None:
    assert sorted(made) == list(range(len(VOCABULARY)))


@pytest.mark.parametrize("pair", ["lung", "clavicle", "hilar structures", "costophrenic angle", "hemidiaphragm"])
def test_the_patients_right_is_at_the_left_of_the_picture(made: dict[int, Box], pair: str) -> None:
    assert box(made, f"right {pair}").x2 <= box(made, f"left {pair}").x1 + 1


def test_zones_are_thirds_that_tile_their_lung(made: dict[int, Box]) -> None:
    lung = box(made, "left lung")
    upper, mid, lower = (box(made, f"left {level} lung zone") for level in ("upper", "mid", "lower"))
    assert (upper.y1, lower.y2) == (lung.y1, lung.y2)
    assert upper.y2 == mid.y1
    assert mid.y2 == lower.y1
    assert upper.height == pytest.approx(lower.height)


def test_midline_order_from_above(made: dict[int, Box]) -> None:
    trachea, carina, junction = box(made, "trachea"), box(made, "carina"), box(made, "cavoatrial junction")
    assert trachea.y1 < carina.y1 < junction.y2
    assert trachea.y2 == pytest.approx((carina.y1 + carina.y2) / 2)
    assert box(made, "svc").y2 == pytest.approx((junction.y1 + junction.y2) / 2)
    assert box(made, "right atrium").x1 == box(made, "cardiac silhouette").x1


def test_rules_scale_with_the_film() -> None:
    shape = chests.contours(np.random.default_rng(5))
    small, large = derive(shape), derive({key: points * 4 for key, points in shape.items()})
    for index, found in small.items():
        assert Box(*(4 * v for v in found)).iou(large[index]) > 0.75, VOCABULARY.names[index]


def test_a_missing_contour_is_an_error() -> None:
    shape = chests.contours(np.random.default_rng(5))
    del shape["LCLA"]
    with pytest.raises(KeyError, match="LCLA"):
        derive(shape)


def test_outlines_leave_what_needs_a_clavicle_or_the_knob_unlabelled() -> None:
    shape = chests.contours(np.random.default_rng(5))
    dense = [_dense(shape[key]) for key in ("RL", "LL", "H")]
    names = {VOCABULARY.names[index] for index in derive_from_outlines(*dense)}
    assert {"right lung", "mediastinum", "spine", "abdomen"} <= names
    assert not names & {"right clavicle", "aortic arch", "trachea", "svc", "left hemidiaphragm", "right apical zone"}


def _dense(points: np.ndarray) -> np.ndarray:
    pieces = [np.linspace(a, b, 20) for a, b in zip(points, np.roll(points, -1, axis=0), strict=True)]
    return np.concatenate(pieces)


@pytest.mark.data
def test_rules_reproduce_the_labels_of_the_open_films(data_dir: Path) -> None:
    records = [r for r in json.loads((data_dir / "cxr/regions.json").read_text()) if r["dataset"] == "jsrt"]
    overlap: dict[str, list[float]] = {}
    with np.load(data_dir / "cxr/landmarks.npz") as marks:
        for record in records:
            regions = derive({key: marks[f"{record['patient']}/{key}"] for key in KEYS})
            assert len(regions) == len(VOCABULARY)
            for name, values in {**record["boxes"], **record["derived"]}.items():
                if name in VOCABULARY.names:
                    overlap.setdefault(name, []).append(box(regions, name).iou(Box(*values)))
    assert len(overlap) == 20
    for name, values in overlap.items():
        assert np.mean(values) > LEAST.get(name, 0.97), name


@pytest.mark.data
def test_outline_rules_agree_with_landmark_rules(data_dir: Path) -> None:
    films = [film for film in read(data_dir / "cxr").films if film.id.startswith("jsrt/")][::10]
    still = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    for film in films:
        with Image.open(data_dir / "cxr/masks" / film.path.name) as mask:
            bits = np.asarray(mask)
        assert bits.shape == film.image.shape
        true = film.labels.moved(still)
        found = _outline_labels(data_dir / "cxr", film.patient).moved(still)
        agreed = np.mean([each.iou(true[index]) for index, each in found.items()])
        assert agreed > 0.88, film.id
        for name in CONTOURED[:3]:
            assert box(found, name).iou(box(true, name)) > 0.95


def _outline_labels(folder: Path, patient: str) -> Outlines:
    with Image.open(folder / "masks" / f"jsrt_{patient}.png") as mask:
        found = outlines(np.asarray(mask))
    assert found is not None
    return found
