"""Decode, detect and encode: films a second in one worker, by runtime and threads; whether the ranking stays; on a GPU.

torch in fp32 on one thread is what speed and ranking are compared with, in the same run.
"""

import importlib.util
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import films, timing
from dicomnode.pixels import decode
from dicomnode.pixels.decode import DecodedImage
from encoder.checkpoint import SHIPPED, read_manifest
from encoder.choice import RUNTIMES
from encoder.pipeline import Analysis, Pipeline
from encoder.runtime import picture

THREADS = (1, 2)
BATCHES = (1, 16, 32)  # films that a GPU sees at once
VIEWS = 3  # of each film, cut differently: the gallery of the ranking
CUT = 0.08  # of a side, at most: what a view may lose at each edge
K = 10
Vectors = dict[int, dict[int, NDArray[np.float32]]]  # anatomy -> view -> vector


def run(repeat: int) -> dict[str, Any]:
    """One worker's path from file to vectors; 29 single-region passes beside the one pass."""
    paths, policy = films.drawn(), decode.Policy()
    images = [decode.film(path, policy) for path in paths]
    runtimes: list[str] = [name for name in RUNTIMES if importlib.util.find_spec(name)]
    pipelines = {name: Pipeline.load(threads=1, runtime=name) for name in runtimes}
    regions = len(pipelines["torch"].analyse(images[0].pixels, images[0].spacing_mm).regions)
    return {
        "films": f"{len(images)} of {images[0].pixels.shape[0]} x {images[0].pixels.shape[1]}, {regions} regions each",
        **_speed(pipelines, images, lambda: [decode.film(path, policy) for path in paths], repeat),
        **_one_pass(pipelines[runtimes[-1]], images[0], repeat),
        **_ranking(pipelines, images),
        **_gpu(images, repeat),
    }


def _speed(
    pipelines: dict[str, Pipeline], images: Sequence[DecodedImage], decoded: Callable[[], Any], repeat: int
) -> dict[str, str]:
    """Everything in turn: each runtime at each number of threads, and the steps before it on one thread."""
    works: dict[str, Callable[[], Any]] = {"decode": decoded, "preprocess": partial(_preprocessed, images)}
    for name, pipeline in pipelines.items():
        for threads in THREADS:
            own = pipeline if threads == 1 else Pipeline.load(threads=threads, runtime=name)
            works[f"{name}, {_count(threads)}"] = partial(_analysed, own, images, threads)
    taken = timing.in_turn(works, repeat)
    torch.set_num_threads(1)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    count = len(images)
    rows = {
        "decode, ms a film": timing.spread(taken["decode"], 1000 / count),
        "preprocess, ms a film": timing.spread(taken["preprocess"], 1000 / count),
    }
    for name in list(works)[2:]:
        rows[f"detect and encode, films/s, {name}"] = timing.spread([count / value for value in taken[name]])
    for threads in THREADS:
        for name in list(pipelines)[1:]:
            one, other = (medians[f"{each}, {_count(threads)}"] for each in ("torch", name))
            rows[f"{name} : torch, {_count(threads)}"] = f"{one / other:.2f} x"
    best = medians[f"{list(pipelines)[-1]}, {_count(1)}"]
    rows["preprocessing, share of detect and encode"] = f"{medians['preprocess'] / best:.0%}"
    rows["films/s with decoding, 1 thread"] = f"{count / (medians['decode'] + best):.1f}"
    return rows


def _analysed(pipeline: Pipeline, images: Sequence[DecodedImage], threads: int) -> None:
    torch.set_num_threads(threads)
    for image in images:
        pipeline.analyse(image.pixels, image.spacing_mm)


def _preprocessed(images: Sequence[DecodedImage]) -> None:
    """The frames of detector and encoder, as the pipeline makes them."""
    torch.set_num_threads(1)
    sizes = [read_manifest(SHIPPED, part).architecture["size"] for part in ("detector", "encoder")]
    with torch.inference_mode():
        for image in images:
            film = picture(image.pixels, image.spacing_mm, max(sizes))
            for size in sizes:
                film.frame(image.spacing_mm, size)


def _one_pass(pipeline: Pipeline, image: DecodedImage, repeat: int) -> dict[str, str]:
    boxes = [region.box for region in pipeline.analyse(image.pixels, image.spacing_mm).regions]
    taken = timing.in_turn(
        {
            "one": lambda: pipeline.embed(image.pixels, boxes, image.spacing_mm),
            "each": lambda: [pipeline.embed(image.pixels, [box], image.spacing_mm) for box in boxes],
        },
        repeat,
    )
    return {
        "one trunk pass against a pass a region": (
            f"{statistics.median(taken['each']) / statistics.median(taken['one']):.1f} x"
        )
    }


def _ranking(pipelines: dict[str, Pipeline], images: Sequence[DecodedImage]) -> dict[str, str]:
    """The share of torch's first ten, of the same region in views of other films, that a runtime has in its own."""
    views = [view for image in images for view in _views(image.pixels)]
    found = {name: _by_anatomy([each.analyse(view) for view in views]) for name, each in pipelines.items()}
    want = found.pop("torch")
    rows = {}
    for name, have in found.items():
        shares = [
            len(_nearest(want[anatomy], view) & _nearest(have[anatomy], view)) / K
            for anatomy in want
            for view in want[anatomy]
            if view in have.get(anatomy, {})
        ]
        rows[f"recall@{K} of {name} against torch"] = f"{statistics.mean(shares):.4f} of {len(shares)} regions"
    return rows


def _views(pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    height, width = pixels.shape
    cuts = (rng.uniform(0, CUT, (VIEWS, 4)) * (height, height, width, width)).astype(int)
    return [pixels[top : height - bottom, left : width - right] for top, bottom, left, right in cuts]


def _by_anatomy(analyses: Sequence[Analysis]) -> Vectors:
    found: Vectors = {}
    for view, analysis in enumerate(analyses):
        for region, vector in zip(analysis.regions, analysis.vectors["anatomy"], strict=True):
            found.setdefault(region.anatomy, {})[view] = vector
    return found


def _nearest(vectors: dict[int, NDArray[np.float32]], asking: int) -> set[int]:
    others = [view for view in vectors if view // VIEWS != asking // VIEWS]
    if not others:
        return set()
    scores = np.stack([vectors[view] for view in others]) @ vectors[asking]
    return {others[at] for at in np.argsort(-scores, kind="stable")[:K]}


def _gpu(images: Sequence[DecodedImage], repeat: int) -> dict[str, str]:
    if not torch.cuda.is_available():
        return {"on a GPU": "no GPU here"}
    pipeline = Pipeline.load(device="cuda", threads=1)
    taken = timing.in_turn({str(size): partial(_batched, pipeline, images, size) for size in BATCHES}, repeat)
    count = max(BATCHES)
    return {
        f"detect and encode, films/s, {torch.cuda.get_device_name()}, batch {size}": timing.spread(
            [count / value for value in values]
        )
        for size, values in taken.items()
    }


def _batched(pipeline: Pipeline, images: Sequence[DecodedImage], size: int) -> None:
    """As many films as the largest batch holds, `size` at a time."""
    many = [images[number % len(images)] for number in range(max(BATCHES))]
    for start in range(0, len(many), size):
        part = many[start : start + size]
        pipeline.analyse_many([image.pixels for image in part], [image.spacing_mm for image in part])


def _count(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"
