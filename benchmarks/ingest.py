"""Decode, detect and encode: films a second in one process, and where the time goes; raw torch crops as the peer."""

import statistics
from typing import Any

from benchmarks import films, timing
from dicomnode.pixels import decode
from encoder.pipeline import Pipeline


def run(repeat: int) -> dict[str, Any]:
    """One worker's path from file to vectors, one thread; 29 single-region passes beside the one pass."""
    paths = films.drawn()
    policy = decode.Policy()
    pipeline = Pipeline.load(threads=1)
    images = [decode.film(path, policy) for path in paths]
    image = images[0]
    boxes = [region.box for region in pipeline.analyse(image.pixels, image.spacing_mm).regions]
    stages = timing.in_turn(
        {
            "decode": lambda: [decode.film(path, policy) for path in paths],
            "detect and encode": lambda: [pipeline.analyse(each.pixels, each.spacing_mm) for each in images],
        },
        repeat,
    )
    whole = [sum(pair) for pair in zip(*stages.values(), strict=True)]
    passes = timing.in_turn(
        {
            "one pass": lambda: pipeline.embed(image.pixels, boxes, image.spacing_mm),
            "a pass a region": lambda: [pipeline.embed(image.pixels, [box], image.spacing_mm) for box in boxes],
        },
        repeat,
    )
    count = len(paths)
    return {
        "films": f"{count} of 512 x 512, {len(boxes)} regions each",
        "decode, ms a film": timing.spread(stages["decode"], 1000 / count),
        "detect and encode, ms a film": timing.spread(stages["detect and encode"], 1000 / count),
        "films/s, one worker of one thread": f"{count / statistics.median(whole):.1f}",
        "one trunk pass against a pass a region": (
            f"{statistics.median(passes['a pass a region']) / statistics.median(passes['one pass']):.1f} x"
        ),
    }
