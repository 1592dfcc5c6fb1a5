"""Films with regions go in, `encoder.safetensors` and its manifest come out.

The recipe of RegionMIR (arXiv 2305.05598): first region-contrastive, the same anatomy in two films is the positive
pair; then classification, here by cosine to one prototype an anatomy, so that what is trained is the space that is
searched. `OBJECTIVES` holds it beside what it is compared with; `regionmir-apart` adds a pull that keeps the patients
of one anatomy apart (`losses.same_region`, which is ours). Boxes are shaken as a detector would miss them. The trunk
starts from the detector's when the model set has one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.checkpoint import Manifest, read_manifest, read_weights, save, save_manifest
from encoder.data import Film
from encoder.errors import CheckpointError
from encoder.metrics import Gallery, average_precisions, by_label, macro, rank_all, unlike_distances
from encoder.preprocess import SETTINGS
from encoder.roi_encoder import PROJECTIONS, EncoderShape, RoiEncoder
from encoder.runtime import DetectorRuntime, EncoderRuntime, inside, picture, steady
from encoder.train.augment import Cached, Sample, augmented, plain
from encoder.train.films import prepare, spread
from encoder.train.loop import Recipe, Report, TrainOptions, stacked, train
from encoder.train.losses import prototype_loss, region_contrastive, same_region

TRAINED = "anatomy"  # the projection that this step trains; `finding` stays as drawn and is not offered
RECIPE = Recipe(epochs=6, batch=8, rate=1e-3, patience=6)
PRETRAINING_SHARE = 0.34  # of the epochs
TEMPERATURE = 0.1
NAMED = 0.2  # weight of the classifier that names a drawn box
SHAKE = 0.05  # of a box's sides: how far a detector's edge lies from the true one
NEIGHBOURS = 5  # of the unlike-archive distance
THRESHOLD_FILMS = 2000  # most that the distances are measured on
UNUSUAL = 95  # percentile of the leave-one-patient-out distances
VIEW_SEED = 30_000


@dataclass(frozen=True)
class Weights:
    """Of each loss in one part of the training; 0 leaves it out."""

    contrastive: float = 0.0  # the same anatomy in other films is near
    own_view: float = 0.0  # another view of the very same region is near
    classified: float = 0.0  # cosine to one prototype an anatomy
    apart: float = 0.0  # two views of a film are nearer than two films of the same anatomy

    @property
    def labelled(self) -> bool:
        """Whether anatomy is told to the network."""
        return bool(self.contrastive or self.classified)


@dataclass(frozen=True)
class Objective:
    """What the vectors are trained for: first (pretraining), then."""

    first: Weights
    then: Weights


CLASSIFIED = Weights(classified=1.0)
OBJECTIVES: Mapping[str, Objective] = {
    "regionmir": Objective(Weights(contrastive=1.0), CLASSIFIED),
    "regionmir-apart": Objective(Weights(contrastive=1.0), Weights(classified=1.0, apart=0.3)),
    "cross-entropy": Objective(CLASSIFIED, CLASSIFIED),
    "simclr": Objective(Weights(own_view=1.0), Weights(own_view=1.0)),
    "simclr-classified": Objective(Weights(own_view=1.0), CLASSIFIED),
    "together": Objective(Weights(contrastive=1.0, classified=1.0), Weights(contrastive=1.0, classified=1.0)),
}
SHIPPED_OBJECTIVE = "regionmir-apart"


@dataclass(frozen=True, eq=False)
class Regions:
    """The placed regions of a batch."""

    vectors: Tensor  # (N, dim) unit norm
    hidden: Tensor  # (N, hidden)
    anatomy: Tensor  # (N,) vocabulary index
    film: Tensor  # (N,) number of the film in the batch


class _Trained(nn.Module):
    """The encoder and what only training needs."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.encoder = RoiEncoder(shape)
        self.prototypes = nn.Parameter(torch.randn(shape.classes, shape.dim))

    def loss(self, batch: Regions, weights: Weights) -> Tensor:
        """The weighted sum, and the classifier's: it only watches where the objective knows no labels."""
        named = self.encoder.classifier(batch.hidden if weights.labelled else batch.hidden.detach())
        total: Tensor = NAMED * F.cross_entropy(named, batch.anatomy)
        if weights.contrastive:
            total = total + weights.contrastive * region_contrastive(batch.vectors, batch.anatomy, TEMPERATURE)
        if weights.own_view:
            region = batch.film * len(VOCABULARY) + batch.anatomy
            total = total + weights.own_view * region_contrastive(batch.vectors, region, TEMPERATURE)
        if weights.classified:
            loss = prototype_loss(batch.vectors, self.prototypes, batch.anatomy, TEMPERATURE)
            total = total + weights.classified * loss
        if weights.apart:
            total = total + weights.apart * same_region(batch.vectors, batch.anatomy, batch.film, TEMPERATURE)
        return total


class _Retrieval:
    """The encoder's task: the same anatomy of other patients first."""

    name = "encoder"
    views = 2

    def __init__(
        self, held: Sequence[Cached], shape: EncoderShape, objective: Objective, epochs: int, device: str
    ) -> None:
        self.size, self.device, self.objective = shape.size, device, objective
        self.pretraining = round(PRETRAINING_SHARE * epochs)  # epochs
        self.model: _Trained = _Trained(shape).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        rng = np.random.default_rng(VIEW_SEED)
        self.patients = [film.film.patient for film in held]
        self.plain = [plain(film, shape.size) for film in held]
        self.moved = [augmented(film, shape.size, rng) for film in held]

    def loss(self, films: Sequence[Cached], epoch: int, rng: np.random.Generator) -> Tensor:
        truth = stacked([augmented(film, self.size, rng) for film in films for _ in range(self.views)], self.device)
        encoded = self.model.encoder(truth.frame, _shaken(truth.boxes, rng))
        view, anatomy = truth.placed.nonzero().unbind(1)
        batch = Regions(
            vectors=encoded.vectors[TRAINED][truth.placed],
            hidden=encoded.hidden[truth.placed],
            anatomy=anatomy,
            film=view // self.views,
        )
        weights = self.objective.first if epoch < self.pretraining else self.objective.then
        return self.model.loss(batch, weights)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Full-ranking mAP, macro over anatomies, of held films as they are and moved."""
        still, accuracy = self._measure(self.plain)
        moved, _ = self._measure(self.moved)
        return {"map": still, "moved_map": moved, "accuracy": accuracy, "score": still + moved}

    def _measure(self, samples: Sequence[Sample]) -> tuple[float, float]:
        rng = np.random.default_rng(VIEW_SEED)
        vectors, labels, patients, right = [], [], [], []
        for patient, sample in zip(self.patients, samples, strict=True):
            batch = stacked([sample], self.device)
            encoded = self.model.encoder(batch.frame, _shaken(batch.boxes, rng))
            anatomy = sample.placed.nonzero()[:, 0]
            vectors.append(encoded.vectors[TRAINED][0, anatomy].cpu().numpy())
            right.append((encoded.anatomy[0, anatomy].argmax(-1).cpu() == anatomy).float().numpy())
            labels += anatomy.tolist()
            patients += [patient] * len(anatomy)
        return _full_map(np.concatenate(vectors), labels, patients), float(np.concatenate(right).mean())


def _full_map(vectors: NDArray[np.float32], labels: Sequence[int], patients: Sequence[str]) -> float:
    ranking = rank_all(Gallery.of(patients, vectors, labels, patients))
    return macro(by_label(average_precisions(ranking), ranking.query))


def _shaken(boxes: Tensor, rng: np.random.Generator) -> Tensor:
    """(B, K, 4) with each edge moved by a few per cent of the box's side."""
    sides = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
    return boxes + sides * torch.from_numpy(rng.normal(0.0, SHAKE, boxes.shape)).float().to(boxes.device)


def train_encoder(options: TrainOptions, report: Report, shape: EncoderShape | None = None) -> None:
    """Trains on `dev_train`, stops on `dev_val`, writes the model into `options.out`."""
    shape = shape or EncoderShape()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    data = prepare(options, _Retrieval.name, shape.size, report)
    recipe = RECIPE.changed(options)
    task = _Retrieval(
        data.held, shape, OBJECTIVES[options.objective or SHIPPED_OBJECTIVE], recipe.epochs, options.device
    )
    started = not options.from_scratch and _start_from_detector(task.model.encoder, options.out)
    report("start", 0, recipe.epochs, "trunk of the detector" if started else "trunk from scratch")
    history = train(task, data.kept, recipe, options, report)
    best = max(history, key=lambda row: row["score"])
    manifest = Manifest(
        part="encoder",
        architecture=shape.plain(),
        preprocessing=SETTINGS,
        data=data.fingerprint,
        seed=options.seed,
        commit=options.commit,
        metrics={key: round(value, 5) for key, value in best.items()},
        projections={name: name == TRAINED for name in PROJECTIONS},
        objective=options.objective or SHIPPED_OBJECTIVE,
    )
    save(options.out, manifest, task.model.encoder.state_dict())
    store_thresholds(options.out, spread(data.films, THRESHOLD_FILMS), options.device, report)


def _start_from_detector(encoder: RoiEncoder, folder: Path) -> bool:
    """Copy the detector's trunk when there is one of the same shape."""
    try:
        weights = read_weights(folder, read_manifest(folder, "detector"))
    except CheckpointError:
        return False  # no detector yet: the encoder is trained from scratch
    trunk = {key.removeprefix("trunk."): value for key, value in weights.items() if key.startswith("trunk.")}
    own = encoder.trunk.state_dict()
    if {key: value.shape for key, value in trunk.items()} != {key: value.shape for key, value in own.items()}:
        return False
    encoder.trunk.load_state_dict(trunk)
    return True


def store_thresholds(folder: Path, films: Sequence[Film], device: str, report: Report) -> None:
    """Write into the encoder's manifest when a region is unlike its archive.

    For each anatomy: the 95th percentile, over all films, of the mean cosine distance to the 5 nearest vectors of the
    same anatomy in other patients (the idea of ACIR). Regions are the detector's when the set has one, as in use.
    """
    steady(None)
    encoder = EncoderRuntime.load(folder, device)
    detector = DetectorRuntime.load(folder, device) if (folder / "detector.json").exists() else None
    vectors, labels, patients = [], [], []
    for number, film in enumerate(films):
        found = _regions(film, detector, encoder.size)
        vectors.append(_vectors(film, encoder, [box for _, box in found]))
        labels += [anatomy for anatomy, _ in found]
        patients += [film.patient] * len(found)
        report("thresholds", number + 1, len(films), "")
    gallery = Gallery.of(patients, np.concatenate(vectors), labels, patients)
    distance = unlike_distances(gallery, NEIGHBOURS)
    thresholds = {
        VOCABULARY.names[anatomy]: round(float(np.percentile(distance[chosen], UNUSUAL)), 6)
        for anatomy in range(len(VOCABULARY))
        if (chosen := (gallery.label == anatomy) & ~np.isnan(distance)).any()
    }
    manifest = read_manifest(folder, "encoder")
    save_manifest(folder, replace(manifest, unlike_thresholds=thresholds))


@torch.inference_mode()
def _regions(film: Film, detector: DetectorRuntime | None, size: int) -> list[tuple[int, Box]]:
    if detector:
        return [(each.anatomy, each.box) for each in detector.find(picture(film.image, None, size), None)]
    height, width = film.image.shape
    clipped = [(anatomy, box.clipped(width, height)) for anatomy, box in film.regions.items()]
    return [(anatomy, box) for anatomy, box in clipped if box.area > 0]


@torch.inference_mode()
def _vectors(film: Film, encoder: EncoderRuntime, boxes: Sequence[Box]) -> NDArray[np.float32]:
    height, width = film.image.shape
    vectors, _, _ = encoder.encode(picture(film.image, None, encoder.size), inside(boxes, height, width), None)
    return vectors[TRAINED]
