"""A task and options go in, a run folder comes out: config.json, metrics.json, curves.png, and the best weights.

The run can be stopped after any epoch and resumed to the same result: an epoch's randomness depends on (seed, epoch)
only, and the state of model, optimiser and history is written in full after each one.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from encoder.data import Decoder
from encoder.errors import TrainingDataError
from encoder.train.augment import Cached, Sample

Report = Callable[[str, int, int, str], None]  # stage, done, total, text
WEIGHT_DECAY = 1e-4
WARM_UP = 0.05  # share of the steps in which the rate climbs
CLIP = 5.0  # gradient norm


@dataclass(frozen=True)
class TrainOptions:
    """What a run is asked to do; written to its config.json."""

    data: Path
    out: Path
    images: Path | None = None  # where the pictures lie, when not in the data folder
    decoder: Decoder | None = None  # reads those that are DICOM files
    seed: int = 0
    epochs: int | None = None  # None, here and below: as the recipe says
    batch: int | None = None  # samples in a step
    rate: float | None = None  # the highest learning rate
    patience: int | None = None  # epochs without a better held-out score before the run stops
    device: str = "cpu"
    threads: int | None = None
    source: str | None = None  # only films of this source, as their records name it
    objective: str | None = None  # of the encoder; None: the shipped one
    from_scratch: bool = False  # the encoder's trunk does not start from the detector's
    resume: bool = False
    commit: str | None = None  # of the code, for the manifest

    def plain(self) -> dict[str, object]:
        """For config.json: folders by name only, they are this machine's business."""
        told = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "decoder"}
        return told | {name: told[name] and told[name].name for name in ("data", "out", "images")}


@dataclass(frozen=True)
class Recipe:
    """How long and how fast; each model has its own, options may change any part of it."""

    epochs: int
    batch: int
    rate: float
    patience: int

    def changed(self, options: TrainOptions) -> "Recipe":
        return Recipe(
            epochs=self.epochs if options.epochs is None else options.epochs,
            batch=self.batch if options.batch is None else options.batch,
            rate=self.rate if options.rate is None else options.rate,
            patience=self.patience if options.patience is None else options.patience,
        )


class Task(Protocol):
    """What is trained."""

    name: str
    views: int  # samples of each film in a step

    @property
    def model(self) -> nn.Module: ...

    def loss(self, films: Sequence[Cached], epoch: int, rng: np.random.Generator) -> Tensor:
        """Of one step: the task draws its samples from these films."""
        ...

    def validate(self) -> dict[str, float]:
        """Held-out numbers; "score" is the one to raise."""
        ...


@dataclass
class _Progress:
    epoch: int  # epochs done
    best: float
    best_epoch: int
    history: list[dict[str, float]]


def train(
    task: Task, films: Sequence[Cached], recipe: Recipe, options: TrainOptions, report: Report
) -> list[dict[str, float]]:
    """Runs to the last epoch or until patience ends; leaves the best weights in the model. Returns the history."""
    if len(films) < 2:
        raise TrainingDataError(f"{len(films)} films to train on: at least two are needed")
    run = options.out / "runs" / task.name
    run.mkdir(parents=True, exist_ok=True)
    _write(run / "config.json", {**options.plain(), **asdict(recipe)})
    optimiser = torch.optim.AdamW(task.model.parameters(), lr=recipe.rate, weight_decay=WEIGHT_DECAY)
    progress = _Progress(0, float("-inf"), 0, [])
    if options.resume and (run / "state.pt").exists():
        progress = _restore(run / "state.pt", task.model, optimiser)
    try:
        while progress.epoch < recipe.epochs and progress.epoch - progress.best_epoch < recipe.patience:
            _epoch(task, films, recipe, options.seed, optimiser, progress)
            _keep(run, task, optimiser, progress)
            report(f"train {task.name}", progress.epoch, recipe.epochs, _line(progress.history[-1]))
    finally:
        _draw(run / "curves.png", progress.history)  # a run that is stopped shows how far it came
    task.model.load_state_dict(torch.load(run / "best.pt", weights_only=True))
    return progress.history


def _epoch(
    task: Task,
    films: Sequence[Cached],
    recipe: Recipe,
    seed: int,
    optimiser: torch.optim.Optimizer,
    progress: _Progress,
) -> None:
    rng = np.random.default_rng([seed, progress.epoch])
    torch.manual_seed(seed * 100_003 + progress.epoch)
    task.model.train()
    batches = list(_batches(len(films), max(recipe.batch // task.views, 2), rng))
    losses = []
    for number, chosen in enumerate(batches):
        share = (progress.epoch + number / len(batches)) / recipe.epochs
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * _rate(share)
        loss = task.loss([films[index] for index in chosen], progress.epoch, rng)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(task.model.parameters(), CLIP)
        optimiser.step()
        losses.append(loss.item())
    progress.epoch += 1
    task.model.eval()
    progress.history.append({"epoch": progress.epoch, "loss": float(np.mean(losses)), **task.validate()})


def _batches(count: int, size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Every film once in random order; a last batch of one is left out: it has nothing to be compared with."""
    order = rng.permutation(count).tolist()
    for start in range(0, count, size):
        if len(order[start : start + size]) > 1:
            yield order[start : start + size]


def _rate(share: float) -> float:
    """Linear warm-up, then half a cosine to almost nothing."""
    if share < WARM_UP:
        return max(share / WARM_UP, 0.02)
    return 0.01 + 0.99 * 0.5 * (1.0 + float(np.cos(np.pi * (share - WARM_UP) / (1.0 - WARM_UP))))


def _keep(run: Path, task: Task, optimiser: torch.optim.Optimizer, progress: _Progress) -> None:
    score = progress.history[-1]["score"]
    if score > progress.best:
        progress.best, progress.best_epoch = score, progress.epoch
        _save(run / "best.pt", task.model.state_dict())
    state = {"model": task.model.state_dict(), "optimiser": optimiser.state_dict(), "progress": asdict(progress)}
    _save(run / "state.pt", state)
    _write(run / "metrics.json", {"best_epoch": progress.best_epoch, "best": progress.best, "epochs": progress.history})


def _restore(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> _Progress:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return _Progress(**state["progress"])


def _save(path: Path, state: object) -> None:
    """Beside, then over: a run that is killed here keeps the epoch before."""
    scratch = path.with_suffix(".part")
    torch.save(state, scratch)
    scratch.replace(path)


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _line(row: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.4f}" for key, value in row.items() if key != "epoch")


def _draw(path: Path, history: Sequence[dict[str, float]]) -> None:
    if not history:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in history[0] if name != "epoch"]
    figure = Figure(figsize=(4 * len(names), 3), layout="tight")
    FigureCanvasAgg(figure)
    for position, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), position + 1)
        axes.plot([row["epoch"] for row in history], [row[name] for row in history])
        axes.set_title(name)
        axes.set_xlabel("epoch")
    figure.savefig(path, dpi=80)


def stacked(samples: Sequence[Sample], device: str) -> Sample:
    """A batch as one sample with a leading dimension."""
    return Sample(
        frame=torch.stack([s.frame for s in samples]).to(device, memory_format=torch.channels_last),
        boxes=torch.stack([s.boxes for s in samples]).to(device),
        placed=torch.stack([s.placed for s in samples]).to(device),
        present=torch.stack([s.present for s in samples]).to(device),
        judged=torch.stack([s.judged for s in samples]).to(device),
    )
