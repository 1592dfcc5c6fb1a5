"""An encoder and films with findings go in, the same model set with a trained `finding` projection comes out.

Regions of one anatomy that show the same findings are near, those that show others are not; how near follows the share
of findings that two regions have in common (soft targets from coded likeness, the idea of RadIR and SeLIP). Trunk and
anatomy projection stay as they are. The projection is offered only when it beats chance on held patients: the lower
end of the interval of P@5 over its chance. Else the set says what was measured and offers no such thing.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from encoder.checkpoint import read_manifest, save
from encoder.errors import NoFindings
from encoder.metrics import bootstrap_interval
from encoder.roi_encoder import RoiEncoder
from encoder.runtime import EncoderRuntime
from encoder.train.augment import Cached, Sample, augmented, plain
from encoder.train.films import prepare
from encoder.train.loop import Recipe, Report, TrainOptions, stacked, train
from encoder.train.losses import finding_contrastive

PROJECTION = "finding"
RECIPE = Recipe(epochs=10, batch=32, rate=3e-3, patience=6)
TEMPERATURE = 0.1
FIRST = 5
BOOTSTRAP_SEED = 0

Numbers = NDArray[np.float64]


class _Findings:
    """The finding projection's task."""

    name = PROJECTION
    views = 1

    def __init__(self, encoder: EncoderRuntime, held: Sequence[Cached], names: Sequence[str]) -> None:
        self.encoder, self.device, self.size = encoder.model, encoder.device, encoder.size
        self.names = list(names)
        self.held = [film for film in held if film.film.findings is not None]
        self.samples = [plain(film, self.size) for film in self.held]

    @property
    def model(self) -> nn.Module:
        return self.encoder.projections[PROJECTION]

    def loss(self, films: Sequence[Cached], epoch: int, rng: np.random.Generator) -> Tensor:
        known = [film for film in films if film.film.findings is not None]
        if not known:
            return sum((each.sum() for each in self.model.parameters()), torch.zeros(())) * 0.0
        samples = [augmented(film, self.size, rng) for film in known]
        vectors, anatomy, shown, _ = self._regions(known, samples)
        return finding_contrastive(vectors, anatomy, shown, TEMPERATURE)

    def _regions(self, films: Sequence[Cached], samples: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each region whose findings are known: vector, anatomy, findings (N, names) 0 or 1, number of the film."""
        batch = stacked(samples, self.device)
        with torch.no_grad():
            hidden = self.encoder(batch.frame, batch.boxes).hidden
        spoken = torch.zeros_like(batch.placed)
        shown = torch.zeros(*batch.placed.shape, len(self.names), device=self.device)
        for number, film in enumerate(films):
            for anatomy, findings in (film.film.findings or {}).items():
                spoken[number, anatomy] = True
                for finding in findings:
                    shown[number, anatomy, self.names.index(finding)] = 1.0
        chosen = batch.placed & spoken
        film_number, anatomy_index = chosen.nonzero().unbind(1)
        vectors = F.normalize(self.model(hidden[chosen]), dim=-1)
        return vectors, anatomy_index, shown[chosen], film_number

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """P@5 over chance among held patients."""
        share, chance, _ = self.measured()
        return {"p@5": _mean(share), "chance": _mean(chance), "score": _mean(share - chance)}

    @torch.no_grad()
    def measured(self) -> tuple[Numbers, Numbers, NDArray[np.int64]]:
        """(Q,) of each region with a finding: P@5 in its anatomy among other patients, chance, number of the patient.

        Relevant is a region that shows one of its findings.
        """
        if not self.samples:
            return np.zeros(0), np.zeros(0), np.zeros(0, np.int64)
        parts = [self._regions([film], [one]) for film, one in zip(self.held, self.samples, strict=True)]
        vectors = torch.cat([part[0] for part in parts]).cpu().numpy()
        anatomy = torch.cat([part[1] for part in parts]).cpu().numpy()
        shown = torch.cat([part[2] for part in parts]).cpu().numpy()
        film = np.concatenate([np.full(len(part[0]), number) for number, part in enumerate(parts)])
        _, people = np.unique([each.film.patient for each in self.held], return_inverse=True)
        patient = people[film]
        rows = []
        for query in np.flatnonzero(shown.any(axis=1)):
            rivals = np.flatnonzero((anatomy == anatomy[query]) & (patient != patient[query]))
            relevant = (shown[rivals] * shown[query]).any(axis=1)
            if len(rivals) >= FIRST and relevant.any():
                order = np.argsort(-(vectors[rivals] @ vectors[query]), kind="stable")[:FIRST]
                rows.append((relevant[order].mean(), relevant.mean(), patient[query]))
        if not rows:
            return np.zeros(0), np.zeros(0), np.zeros(0, np.int64)
        share, chance, who = np.array(rows).T
        return share, chance, who.astype(np.int64)


def train_finding(options: TrainOptions, report: Report) -> None:
    """Trains the projection of the set in `options.out` on `dev_train` and writes the encoder again."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    encoder = EncoderRuntime.load(options.out, options.device)
    fresh = RoiEncoder(encoder.model.shape).projections[PROJECTION]
    encoder.model.projections[PROJECTION].load_state_dict(fresh.state_dict())  # whatever was there before
    prepared = prepare(options, PROJECTION, encoder.size, report)
    spoken = [film for film in prepared.films if film.findings is not None]
    names = sorted({name for film in spoken for findings in (film.findings or {}).values() for name in findings})
    if not names:
        raise NoFindings("no film says what its regions show: there is no finding to train on")
    task = _Findings(encoder, prepared.held, names)
    task.model.requires_grad_(True)
    history = train(task, prepared.kept, RECIPE.changed(options), options, report)
    share, chance, patient = task.measured()
    low, high = _spread(share - chance, patient)
    manifest = read_manifest(options.out, "encoder")
    told = {
        "finding_p@5": round(_mean(share), 5),
        "finding_chance_p@5": round(_mean(chance), 5),
        "finding_over_chance_low": round(low, 5),
        "finding_over_chance_high": round(high, 5),
        "finding_queries": float(len(share)),
    }
    offered = {**manifest.projections, PROJECTION: low > 0.0}
    kept = replace(manifest, metrics={**manifest.metrics, **told}, projections=offered)
    save(options.out, kept, encoder.model.state_dict())
    verdict = "offered" if low > 0.0 else "not offered: no better than chance here"
    report(PROJECTION, len(history), len(history), f"P@5 over chance {low:.3f} to {high:.3f}, {verdict}")


def _mean(values: Numbers) -> float:
    """0 of nothing."""
    return float(values.mean()) if len(values) else 0.0


def _spread(over: Numbers, patient: NDArray[np.int64]) -> tuple[float, float]:
    """95 % interval over patients; 0 to 0 of nothing: what nobody could measure is no better than chance."""
    return bootstrap_interval(over, np.zeros(len(over), np.int64), patient, BOOTSTRAP_SEED) if len(over) else (0.0, 0.0)
