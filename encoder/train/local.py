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
from encoder.preprocess import frame
from encoder.runtime import EncoderRuntime, in_whole_numbers
from encoder.train.augment import Cached, exposed
from encoder.train.films import prepare
from encoder.train.loop import Recipe, Report, TrainOptions, train
from encoder.train.pasted import paste, thing

RECIPE = Recipe(epochs=30, batch=8, rate=2e-3, patience=30)
THINGS = 28  # in a step, each in two films
TEMPERATURE = 0.07
MARGIN = 0.12  # of the film's sides: things are pasted inside it
HELD_SEED = 40_000


@dataclass(frozen=True, eq=False)
class Pair:
    """One thing in two films: film numbers in the batch and centres, shares of the frame."""

    films: tuple[int, int]
    places: tuple[tuple[float, float], tuple[float, float]]


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
        total = cells.sum() * 0.0
        for pair in pairs:
            for one, other in ((0, 1), (1, 0)):
                asked = _at(maps, pair.films[one], pair.places[one])
                wanted = _index(maps, pair.films[other], pair.places[other])
                likeness = cells @ asked / TEMPERATURE
                # The cells beside a thing's centre, in either film, hold it too: they are neither right nor wrong.
                free = _around(maps, pair)
                free[wanted] = False
                total = total - F.log_softmax(likeness.masked_fill(free, -1e9), dim=0)[wanted]
        return total / (2 * len(pairs))

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
            films = self.held[start : start + RECIPE.batch]
            if len(films) < 2:
                break
            frames, pairs = batch_of(films, self.size, rng)
            maps = _local(self._maps(frames))
            for pair in pairs:
                asked += 1
                right += _found(maps, pair)
        return {"placed": right / max(asked, 1), "score": right / max(asked, 1)}


def batch_of(films: Sequence[Cached], size: int, rng: np.random.Generator) -> tuple[Tensor, list[Pair]]:
    """Frames (B, 2, S, S) with things pasted in pairs."""
    pixels = [_source(film, rng) for film in films]
    spans = [float(np.quantile(film, 0.95) - np.quantile(film, 0.05)) for film in pixels]
    found = []
    for _ in range(THINGS):
        what = thing(rng)
        chosen = rng.choice(len(films), 2, replace=False)
        places = []
        for number in chosen:
            height, width = pixels[number].shape
            x, y = rng.uniform(MARGIN, 1 - MARGIN) * width, rng.uniform(MARGIN, 1 - MARGIN) * height
            pixels[number] = paste(pixels[number], what.again(rng), x, y, spans[number])
            places.append((x, y))
        found.append((tuple(int(n) for n in chosen), places))
    framed = [frame(film, None, size) for film in pixels]
    pairs = []
    for (a, b), (first, second) in found:
        at = []
        for number, (x, y) in ((a, first), (b, second)):
            box = framed[number][1].to_frame(Box(x, y, x, y))
            at.append((box.x1, box.y1))
        pairs.append(Pair((a, b), (at[0], at[1])))
    return torch.stack([one for one, _ in framed]), pairs


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


def _around(maps: Tensor, pair: Pair) -> Tensor:
    """(B * h * w,) the cells beside the two centres."""
    near = torch.zeros(len(maps), *maps.shape[-2:], dtype=torch.bool, device=maps.device)
    for film, place in zip(pair.films, pair.places, strict=True):
        row, column = _cell(maps, place)
        near[film, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = True
    return near.flatten()


def _local(maps: Tensor) -> list[LocalMap]:
    """(B, C, h, w) unit vectors -> maps as they are kept, in shares of the frame."""
    return [LocalMap(one, Box(0.0, 0.0, 1.0, 1.0)) for one in in_whole_numbers(maps)]


def _found(maps: Sequence[LocalMap], pair: Pair) -> bool:
    """Whether the first film's thing is found where the second holds it, within a cell and a half."""
    half = 1.0 * maps[0].cell[0]
    (x, y), (u, v) = pair.places
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
    data = prepare(options, _Likeness.name, encoder.size, report)
    task = _Likeness(encoder, data.held)
    task.model.requires_grad_(True)
    history = train(task, data.kept, RECIPE.changed(options), options, report)
    best = max(history, key=lambda row: row["score"])
    manifest = read_manifest(options.out, "encoder")
    metrics = {**manifest.metrics, "local_placed": round(best["placed"], 5)}
    save(options.out, replace(manifest, metrics=metrics, local=True), encoder.model.state_dict())
