"""A model set with an encoder and films go in, the same set with a trained local head comes out.

The trunk stays as it is. The same made-up thing is pasted into two films at different places; its cells are to be
alike, and unlike every other cell of both films and of the batch (InfoNCE, arXiv 1807.03748). So a map tells things
apart and not places: a likeness that a region's vector, trained to forget such things, cannot see.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from encoder.boxes import Box
from encoder.checkpoint import read_manifest, save
from encoder.local import LocalMap, match, patch
from encoder.preprocess import frame, placement
from encoder.roi_encoder import RoiEncoder
from encoder.runtime import EncoderRuntime, in_whole_numbers
from encoder.train.augment import Cached, exposed
from encoder.train.films import prepare
from encoder.train.loop import Recipe, Report, TrainOptions, train
from encoder.train.pasted import paste, thing

RECIPE = Recipe(epochs=36, batch=8, rate=2e-3, patience=36)
THINGS = 24  # in a step, each in two films
POINTS = 3  # of each thing that are to be told
OFFSET = 0.3  # of its side: how far from its centre they lie
TEMPERATURE = 0.07
MARGIN = 0.12  # of the film's sides: things are pasted inside it
HELD_SEED = 40_000


@dataclass(frozen=True, eq=False)
class Pair:
    """One thing in two films: their numbers in the batch, and points of the thing, shares of each frame.

    The first point is its centre.
    """

    films: tuple[int, int]
    points: tuple[tuple[tuple[float, float], tuple[float, float]], ...]  # in the first film, in the second


class _Likeness:
    """The local head's task."""

    name = "local"
    views = 1

    def __init__(self, encoder: EncoderRuntime, held: Sequence[Cached]) -> None:
        self.encoder = encoder.model
        self.device = encoder.device
        self.size = encoder.size
        self.held = held

    @property
    def model(self) -> nn.Module:
        return self.encoder.local

    def loss(self, films: Sequence[Cached], epoch: int, rng: np.random.Generator) -> Tensor:
        frames, pairs = batch_of(films, self.size, rng)
        maps = self._maps(frames)  # (B, C, h, w)
        cells = maps.permute(0, 2, 3, 1).flatten(0, 2)  # (B * h * w, C)
        losses = [
            self._told(maps, cells, pair, one, places) for pair in pairs for places in pair.points for one in (0, 1)
        ]
        return torch.stack(losses).mean()

    def _told(
        self, maps: Tensor, cells: Tensor, pair: Pair, one: int, places: tuple[tuple[float, float], ...]
    ) -> Tensor:
        """How badly a point of the thing in one film tells its place in the other."""
        other = 1 - one
        asked = _at(maps, pair.films[one], places[one])
        wanted = _index(maps, pair.films[other], places[other])
        # The cells beside the point, in either film, hold much of it too: they are neither right nor wrong.
        free = _around(maps, pair.films, places)
        free[wanted] = False
        likeness = cells @ asked / TEMPERATURE
        return -F.log_softmax(likeness.masked_fill(free, -1e9), dim=0)[wanted]

    def _maps(self, frames: Tensor) -> Tensor:
        frames = frames.to(self.device, memory_format=torch.channels_last)
        with torch.no_grad():
            fine = self.encoder.trunk(frames)[0]
        maps: Tensor = self.encoder.local(frames, fine)
        return maps

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The share of things in held films whose best place in another film is the right one."""
        rng = np.random.default_rng(HELD_SEED)
        right, asked = 0, 0
        for start in range(0, len(self.held) - 1, RECIPE.batch):
            frames, pairs = batch_of(self.held[start : start + RECIPE.batch], self.size, rng)
            maps = _local(self._maps(frames))
            for pair in pairs:
                asked += 1
                right += _found(maps, pair)
        return {"placed": right / max(asked, 1), "score": right / max(asked, 1)}


def batch_of(films: Sequence[Cached], size: int, rng: np.random.Generator) -> tuple[Tensor, list[Pair]]:
    """Frames (B, 2, S, S) with things pasted in pairs."""
    pixels = [_source(film, rng) for film in films]
    spans = [float(np.quantile(film, 0.95) - np.quantile(film, 0.05)) for film in pixels]
    placed = [placement(film.shape[0], film.shape[1], None, size) for film in pixels]
    pairs = []
    for _ in range(THINGS):
        what = thing(rng)
        offsets = [(0.0, 0.0), *((float(x), float(y)) for x, y in rng.uniform(-OFFSET, OFFSET, (POINTS - 1, 2)))]
        chosen = [int(number) for number in rng.choice(len(films), 2, replace=False)]
        points = []
        for number in chosen:
            height, width = pixels[number].shape
            x, y = rng.uniform(MARGIN, 1 - MARGIN) * width, rng.uniform(MARGIN, 1 - MARGIN) * height
            shown = what.again(rng)
            pixels[number] = paste(pixels[number], shown, x, y, spans[number])
            side = shown.side * max(height, width)
            boxes = [placed[number].to_frame(Box(x + u * side, y + v * side, x, y)) for u, v in offsets]
            points.append([(box.x1, box.y1) for box in boxes])
        pairs.append(Pair((chosen[0], chosen[1]), tuple(zip(*points, strict=True))))
    return torch.stack([frame(film, None, size)[0] for film in pixels]), pairs


def _source(film: Cached, rng: np.random.Generator) -> NDArray[np.float32]:
    """The film as another machine may have stored it."""
    tone = float(rng.uniform(0.2, 1.0))
    pixels = torch.lerp(film.pixels, film.ranks, tone)
    seen = exposed(pixels, rng) if rng.random() < 0.5 else pixels
    return np.asarray(seen.numpy(), dtype=np.float32)


def _cell(maps: Tensor, place: tuple[float, float]) -> tuple[int, int]:
    rows, columns = maps.shape[-2:]
    return min(int(place[1] * rows), rows - 1), min(int(place[0] * columns), columns - 1)


def _index(maps: Tensor, film: int, place: tuple[float, float]) -> int:
    rows, columns = maps.shape[-2:]
    row, column = _cell(maps, place)
    return (film * rows + row) * columns + column


def _at(maps: Tensor, film: int, place: tuple[float, float]) -> Tensor:
    row, column = _cell(maps, place)
    return maps[film, :, row, column]


def _around(maps: Tensor, films: tuple[int, int], places: tuple[tuple[float, float], ...]) -> Tensor:
    """(B * h * w,) the cells beside the two places."""
    near = torch.zeros(len(maps), *maps.shape[-2:], dtype=torch.bool, device=maps.device)
    for film, place in zip(films, places, strict=True):
        row, column = _cell(maps, place)
        near[film, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = True
    return near.flatten()


def _local(maps: Tensor) -> list[LocalMap]:
    """(B, C, h, w) unit vectors -> maps as they are kept, in shares of the frame."""
    return [LocalMap(one, Box(0.0, 0.0, 1.0, 1.0)) for one in in_whole_numbers(maps)]


def _found(maps: Sequence[LocalMap], pair: Pair) -> bool:
    """Whether the first film's thing is found where the second holds it, within a cell and a half."""
    half = 1.0 * maps[0].cell[0]
    (x, y), (u, v) = pair.points[0]
    asked = patch(maps[pair.films[0]], Box(x - half, y - half, x + half, y + half))
    best = match(asked, maps[pair.films[1]], Box(0.0, 0.0, 1.0, 1.0))
    reach = 1.5 * maps[0].cell[0]
    if best is None:
        return False
    return abs((best.box.x1 + best.box.x2) / 2 - u) <= reach and abs((best.box.y1 + best.box.y2) / 2 - v) <= reach


def train_local(options: TrainOptions, report: Report) -> None:
    """Trains the local head of the set in `options.out` on `dev_train` and writes the encoder again."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    encoder = EncoderRuntime.load(options.out, options.device)
    encoder.model.local.load_state_dict(RoiEncoder(encoder.model.shape).local.state_dict())  # whatever was there before
    data = prepare(options, _Likeness.name, encoder.size, report)
    task = _Likeness(encoder, data.held)
    task.model.requires_grad_(True)
    history = train(task, data.kept, RECIPE.changed(options), options, report)
    best = max(history, key=lambda row: row["score"])
    manifest = read_manifest(options.out, "encoder")
    metrics = {**manifest.metrics, "local_placed": round(best["placed"], 5)}
    save(options.out, replace(manifest, metrics=metrics, local=True), encoder.model.state_dict())
