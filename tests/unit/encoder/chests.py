"""A seed goes in, a folder in the layout of data/cxr comes out: made-up chests, two ellipses and a heart, for tests."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 96


def _ellipse(x: float, y: float, rx: float, ry: float, count: int, start: float) -> NDArray[np.float64]:
    angle = start + np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def contours(rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """The five contours in the landmark data set's point order: lungs from the apex down the outer side and back."""
    dx, dy, size = rng.uniform(-4, 4), rng.uniform(-4, 4), rng.uniform(0.9, 1.1)

    def at(x: float, y: float) -> NDArray[np.float64]:
        return np.array([48 + dx + (x - 48) * size, 48 + dy + (y - 48) * size])

    def curve(knots: list[tuple[float, float]], counts: list[int]) -> NDArray[np.float64]:
        parts = [
            np.linspace(at(*a), at(*b), count, endpoint=False)
            for a, b, count in zip(knots, [*knots[1:], knots[0]], counts, strict=True)
        ]
        return np.concatenate(parts)

    return {
        "RL": curve([(30, 12), (14, 40), (12, 78), (40, 70), (42, 20)], [10, 11, 9, 10, 4]),
        "LL": curve([(66, 12), (82, 40), (84, 78), (68, 70), (58, 36), (54, 20)], [10, 11, 7, 12, 6, 4]),
        "H": _ellipse(*at(50, 62), 14 * size, 14 * size, 26, np.pi * 0.8),
        "RCLA": curve([(24, 16), (44, 22), (44, 26), (22, 20)], [8, 4, 7, 4]),
        "LCLA": curve([(72, 16), (52, 22), (52, 26), (74, 20)], [8, 4, 7, 4]),
    }


def picture(shape: dict[str, NDArray[np.float64]], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Dark lungs and a bright heart on a grey body; the heart's side and the apices tell left from right."""
    image = np.full((SIDE, SIDE), 150.0)
    y, x = np.mgrid[:SIDE, :SIDE]
    for key, grey in (("RL", 60.0), ("LL", 70.0), ("H", 210.0)):
        image[_filled(shape[key], x, y)] = grey
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def _filled(points: NDArray[np.float64], x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Even-odd fill."""
    inside = np.zeros(x.shape, bool)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
        crosses = (y1 > y) != (y2 > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return inside


def _box(points: NDArray[np.float64]) -> list[float]:
    return [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]


def write(folder: Path, count: int, seed: int) -> Path:
    """`count` films: half with landmarks, a quarter with masks, a quarter with boxes alone. Returns the folder."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    records, marks = [], {}
    y, x = np.mgrid[:SIDE, :SIDE]
    for number in range(count):
        shape, patient = contours(rng), f"P{number}"
        Image.fromarray(picture(shape, rng)).save(folder / "images" / f"{patient}.png")
        boxes = {name: _box(shape[key]) for name, key in (("right lung", "RL"), ("left lung", "LL"))}
        record = {"id": f"made/{patient}", "file": f"{patient}.png", "patient": patient, "boxes": boxes}
        if number % 4 in (0, 1):
            marks |= {f"{patient}/{key}": points.astype(np.float32) for key, points in shape.items()}
        elif number % 4 == 2:
            bits = sum(
                _filled(shape[key], x, y).astype(np.uint8) * bit for key, bit in (("RL", 1), ("LL", 2), ("H", 4))
            )
            Image.fromarray(np.asarray(bits, dtype=np.uint8)).save(folder / "masks" / f"{patient}.png")
        records.append({**record, "split": "dev_val" if number >= count - 4 else "dev_train"})
    np.savez(folder / "landmarks.npz", **marks)
    (folder / "regions.json").write_text(json.dumps(records))
    return folder


def diagnose(folder: Path) -> Path:
    """Every other film gets a nodule in the middle of its right lung, the rest are said to have none."""
    records = json.loads((folder / "regions.json").read_text())
    for number, record in enumerate(records):
        x1, y1, x2, y2 = record["boxes"]["right lung"]
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        found = {"finding": "benign", "lesion": [x - 4, y - 4, x + 4, y + 4]}
        record.update({"finding": "non-nodule"} if number % 2 else found)
    (folder / "regions.json").write_text(json.dumps(records))
    return folder
