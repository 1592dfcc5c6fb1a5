"""Films with regions go in, `encoder.safetensors` and its manifest come out.

Region-contrastive, the same anatomy in two films is the positive pair, and classification, here by cosine to one
prototype an anatomy, so that what is trained is the space that is searched. RegionMIR (arXiv 2305.05598) does one after
the other; `OBJECTIVES` holds that, what it is compared with, and what is shipped: the one that came first on held
patients (`encoder.compare`). Boxes are shaken as a detector would miss them. The trunk starts from the detector's when
the model set has one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from encoder import unlike
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.checkpoint import Manifest, read_manifest, read_weights, save, save_manifest
from encoder.data import Film
from encoder.errors import CheckpointError
from encoder.metrics import Gallery, average_precisions, by_label, macro, rank_all
from encoder.preprocess import SETTINGS
from encoder.roi_encoder import PROJECTIONS, EncoderShape, RoiEncoder
from encoder.runtime import DetectorRuntime, EncoderRuntime, inside, picture, steady
from encoder.train.augment import Cached, Sample, augmented, plain
from encoder.train.films import prepare
from encoder.train.loop import Recipe, Report, TrainOptions, stacked, train
from encoder.train.losses import prototype_loss, region_contrastive, same_region

TRAINED = "anatomy"  # the projection that this step trains; `finding` stays as drawn and is not offered
RECIPE = Recipe(epochs=6, batch=8, rate=1e-3, patience=6)
PRETRAINING_SHARE = 0.34  # of the epochs
TEMPERATURE = 0.1
NAMED = 0.2  # weight of the classifier that names a drawn box
SHAKE = 0.05  # of a box's sides: how far a detector's edge lies from the true one
NEIGHBOURS = 5  # of the unlike-archive distance
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
SHIPPED_OBJECTIVE = "together"


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
    store_thresholds(options.out, data.unseen, options.device, report)


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
    """Write into the encoder's manifest from which distance a region is unlike its archive, for each anatomy.

    Of these films, which the encoder has not seen, as an archive by themselves: a node has these thresholds until its
    own archive is large enough to tell better. What an archive holds are the detector's boxes; people draw others, and
    how much farther these may lie is measured here too and kept as `unlike_slack`.
    """
    steady(None)
    encoder = EncoderRuntime.load(folder, device)
    detector = DetectorRuntime.load(folder, device) if (folder / "detector.json").exists() else None
    found, drawn = _Placed([], [], []), _Placed([], [], [])
    for number, film in enumerate(films):
        labelled = _labelled(film)
        drawn.add(film, encoder, labelled)
        found.add(film, encoder, _detected(film, detector, encoder.size) if detector else labelled)
        report("thresholds", number + 1, len(films), "")
    _, number_of = np.unique([film.patient for film in films], return_inverse=True)
    patients = dict(zip([film.patient for film in films], number_of.tolist(), strict=True))
    limits: dict[int, float] = {}
    ratios: list[float] = []
    for anatomy in sorted(set(found.anatomy)):
        vectors, of = found.rows(anatomy, patients)
        apart = unlike.left_out(vectors, of)
        limit = unlike.threshold(apart)
        if limit is not None:
            limits[anatomy] = limit
            asked, asking = drawn.rows(anatomy, patients)
            own = [unlike.threshold(apart[of != patient]) or limit for patient in asking]
            ratios += (unlike.distances(asked, asking, vectors, of) / np.array(own)).tolist()
    slack = max(1.0, unlike.threshold(np.array(ratios)) or 1.0)
    thresholds = {VOCABULARY.names[anatomy]: round(limit * slack, 6) for anatomy, limit in limits.items()}
    manifest = read_manifest(folder, "encoder")
    save_manifest(folder, replace(manifest, unlike_thresholds=thresholds, unlike_slack=round(slack, 4)))


@dataclass(frozen=True, eq=False)
class _Placed:
    """Regions of films and their vectors."""

    anatomy: list[int]
    vector: list[NDArray[np.float32]]
    patient: list[str]

    @torch.inference_mode()
    def add(self, film: Film, encoder: EncoderRuntime, regions: Sequence[tuple[int, Box]]) -> None:
        height, width = film.image.shape
        boxes = inside([box for _, box in regions], height, width)
        vectors, _, _ = encoder.encode(picture(film.image, None, encoder.size), boxes, None)
        self.anatomy.extend(anatomy for anatomy, _ in regions)
        self.vector.extend(vectors[TRAINED])
        self.patient.extend(film.patient for _ in regions)

    def rows(self, anatomy: int, patients: Mapping[str, int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(N, dim) vectors of an anatomy and (N,) numbers of their patients."""
        chosen = [n for n, each in enumerate(self.anatomy) if each == anatomy]
        vectors = np.array([self.vector[n] for n in chosen], np.float32).reshape(len(chosen), -1)
        return vectors, np.array([patients[self.patient[n]] for n in chosen], np.int64)


@torch.inference_mode()
def _detected(film: Film, detector: DetectorRuntime, size: int) -> list[tuple[int, Box]]:
    return [(each.anatomy, each.box) for each in detector.find(picture(film.image, None, size), None)]


def _labelled(film: Film) -> list[tuple[int, Box]]:
    height, width = film.image.shape
    clipped = [(anatomy, box.clipped(width, height)) for anatomy, box in film.regions.items()]
    return [(anatomy, box) for anatomy, box in clipped if box.area > 0]
