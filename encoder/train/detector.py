"""Films with regions go in, `detector.safetensors` and its manifest come out."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from encoder.anatomy import VOCABULARY
from encoder.checkpoint import Manifest, save
from encoder.data import TRAIN, Film, split
from encoder.detector import Detector, DetectorShape
from encoder.preprocess import SETTINGS
from encoder.train.augment import Cached, Sample, augmented, plain
from encoder.train.films import prepare
from encoder.train.loop import Recipe, Report, TrainOptions, stacked, train
from encoder.train.losses import box_loss, certainty_loss, iou, presence_loss

RECIPE = Recipe(epochs=56, batch=8, rate=2e-3, patience=20)
PRESENCE = 0.5  # probability from which a region is said to be there
INVERTED = 0.1  # share of the views with black and white exchanged: a header may be wrong about it
HELD_VIEWS = 2  # augmented views of each held film: the plain film alone would not show what moved films do
VIEW_SEED = 20_000


class _Detection:
    """The detector's task: edges and presence of every slot."""

    name = "detector"
    views = 1

    def __init__(self, held: Sequence[Cached], shape: DetectorShape, device: str) -> None:
        self.size, self.device = shape.size, device
        self.model: Detector = Detector(shape).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        rng = np.random.default_rng(VIEW_SEED)
        self.plain = [plain(film, shape.size) for film in held]
        self.moved = [augmented(film, shape.size, rng) for film in held for _ in range(HELD_VIEWS)]

    def loss(self, films: Sequence[Cached], epoch: int, rng: np.random.Generator) -> Tensor:
        truth = stacked([augmented(film, self.size, rng, INVERTED) for film in films], self.device)
        boxes, logits, certainty = self.model(truth.frame)
        placed = box_loss(boxes, truth.boxes, truth.placed)
        there = presence_loss(logits, truth.present, truth.judged)
        return placed + 0.3 * there + 0.3 * certainty_loss(certainty, boxes, truth.boxes, truth.placed)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        plain_iou, _ = self._measure(self.plain)
        moved_iou, f1 = self._measure(self.moved)
        return {
            "iou": plain_iou,
            "moved_iou": moved_iou,
            "presence_f1": f1,
            "score": plain_iou + 0.5 * moved_iou + 0.2 * f1,
        }

    def _measure(self, samples: Sequence[Sample]) -> tuple[float, float]:
        """Mean IoU over placed slots, F1 of presence over judged ones."""
        overlaps, right, said, wanted = [], 0, 0, 0
        for sample in samples:
            boxes, logits, _ = self.model(stacked([sample], self.device).frame)
            overlaps.append(iou(boxes[0].cpu(), sample.boxes)[sample.placed])
            yes = (logits[0].cpu().sigmoid() >= PRESENCE) & sample.judged
            there = (sample.present > 0) & sample.judged
            right, said, wanted = right + int((yes & there).sum()), said + int(yes.sum()), wanted + int(there.sum())
        found = torch.cat(overlaps)
        return float(found.mean()) if len(found) else 0.0, 2 * right / max(said + wanted, 1)


def train_detector(options: TrainOptions, report: Report, shape: DetectorShape | None = None) -> None:
    """Trains on `dev_train`, stops on `dev_val`, writes the model into `options.out`."""
    shape = shape or DetectorShape()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    data = prepare(options, _Detection.name, shape.size, report)
    task = _Detection(data.held, shape, options.device)
    history = train(task, data.kept, RECIPE.changed(options), options, report)
    best = max(history, key=lambda row: row["score"])
    manifest = Manifest(
        part="detector",
        architecture=shape.plain(),
        preprocessing=SETTINGS,
        data=data.fingerprint,
        seed=options.seed,
        commit=options.commit,
        metrics={key: round(value, 5) for key, value in best.items()},
        presence=PRESENCE,
        mean_boxes=_mean_boxes(split(data.films, TRAIN)),
    )
    save(options.out, manifest, task.model.state_dict())


def _mean_boxes(films: Sequence[Film]) -> dict[str, list[float]]:
    """The row that a detector is measured against: each region's mean box, in shares of the image's sides."""
    rows: dict[str, list[list[float]]] = {}
    for film in films:
        height, width = film.size
        for anatomy, box in film.regions.items():
            inside = box.clipped(width, height)
            share = [inside.x1 / width, inside.y1 / height, inside.x2 / width, inside.y2 / height]
            rows.setdefault(VOCABULARY.names[anatomy], []).append(share)
    return {name: [round(float(v), 5) for v in np.mean(boxes, axis=0)] for name, boxes in sorted(rows.items())}
