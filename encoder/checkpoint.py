"""Weights and what is known about them go in, a checked model set comes out: weights files, each with a JSON manifest.

A model set is a folder of four files: `detector.safetensors`, `detector.json`, `encoder.safetensors`, `encoder.json`.
An encoder of anyone's is `encoder.pt` (TorchScript) instead; a folder with an encoder alone has the shipped detector.
A model's id is the hash of everything that decides its output: weights, architecture, preprocessing, region list.
Loading checks all of it; a flipped byte, a missing tensor or another format is a CheckpointError with one line.

This module imports no torch until weights are read, so a process that only asks what a model is stays small.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from encoder.anatomy import VOCABULARY
from encoder.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
Part = Literal["detector", "encoder"]
PARTS: tuple[Part, Part] = ("detector", "encoder")
Kind = Literal["built-in", "torchscript"]  # an architecture of this program, its tensors; or a program of its own
KINDS: dict[Part, tuple[Kind, ...]] = {"detector": ("built-in",), "encoder": ("built-in", "torchscript")}
SHIPPED = Path(__file__).parent / "weights"
ID_LENGTH = 16  # hexadecimal digits


@dataclass(frozen=True)
class Manifest:
    """What stands beside a weights file."""

    part: Part
    architecture: dict[str, Any]
    preprocessing: dict[str, Any]
    data: str  # fingerprint of the films it was trained on
    seed: int
    commit: str | None
    metrics: dict[str, float]
    regions: tuple[str, ...] = VOCABULARY.names
    presence: float | None = None  # detector: the probability from which a region is there
    projections: dict[str, bool] = field(default_factory=dict)  # encoder: projection -> trained
    mean_boxes: dict[str, list[float]] = field(default_factory=dict)  # detector: region -> shares of the image's sides
    unlike_thresholds: dict[str, float] = field(default_factory=dict)  # encoder: region name -> cosine distance
    unlike_slack: float = 1.0  # encoder: how much farther a drawn box may lie than the detector's boxes do
    local: bool = False  # encoder: its local head is trained
    objective: str = ""  # encoder: what its vectors were trained for, a name of `train.encoder.OBJECTIVES`
    format: int = FORMAT
    kind: Kind = "built-in"
    weights: str = ""  # sha256 of the weights file
    model_id: str = ""

    @property
    def file(self) -> str:
        """The name of its weights file."""
        return f"{self.part}.{'pt' if self.kind == 'torchscript' else 'safetensors'}"

    def identified(self, weights: str) -> "Manifest":
        """With the digest of its weights and the id that follows from it."""
        decisive = [self.part, self.format, self.architecture, self.preprocessing, list(self.regions), weights]
        kind = [] if self.kind == "built-in" else [self.kind]  # ids from before there were kinds stay as they are
        text = json.dumps([*decisive, self.presence, *kind], sort_keys=True)
        return replace(self, weights=weights, model_id=hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH])


@dataclass(frozen=True)
class ModelCard:
    """What a model set is, from its manifests alone."""

    model_id: str  # of the set: regions come from one model, their vectors from the other
    detector_id: str
    encoder_id: str
    kind: Kind  # of the encoder
    dim: int  # of each vector
    projections: tuple[str, ...]  # the trained ones: what may be stored and compared
    regions: tuple[str, ...]  # vocabulary names, in slot order
    unlike_thresholds: Mapping[int, float]  # anatomy index -> mean cosine distance to the 5 nearest that is unusual
    unlike_slack: float  # how many times that distance a drawn box may lie away
    mean_boxes: Mapping[int, tuple[float, ...]]  # anatomy index -> mean box of the training films, shares of the sides
    metrics: Mapping[str, Mapping[str, float]]  # part -> name -> value


def save(folder: Path, manifest: Manifest, weights: Mapping[str, "Tensor"]) -> Manifest:
    """Write one part of a set, durable; returns the manifest with its id. Matrices and kernels are kept in fp16."""
    from safetensors.torch import save as serialised

    kept = {name: _compact(tensor) for name, tensor in sorted(weights.items())}
    return save_bytes(folder, manifest, serialised(kept))


def save_bytes(folder: Path, manifest: Manifest, data: bytes) -> Manifest:
    """Write one part of a set whose weights file is given whole, durable; returns the manifest with its id."""
    folder.mkdir(parents=True, exist_ok=True)
    final = manifest.identified(hashlib.sha256(data).hexdigest())
    _write(folder / manifest.file, data)
    save_manifest(folder, final)
    return final


def save_manifest(folder: Path, manifest: Manifest) -> None:
    text = json.dumps({**asdict(manifest), "regions": list(manifest.regions)}, indent=1)
    _write(folder / f"{manifest.part}.json", (text + "\n").encode())


def read_manifest(folder: Path, part: Part) -> Manifest:
    """One part's manifest, checked against this program. CheckpointError when it cannot be used."""
    path = folder / f"{part}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(**{**content, "regions": tuple(content["regions"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path.name}: no readable manifest in this folder ({error})") from error
    _check(manifest, part, path.name)
    return manifest


def read_weights(folder: Path, manifest: Manifest) -> "dict[str, Tensor]":
    """The tensors that belong to the manifest, in fp32. CheckpointError when the file is not the one described."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = read_bytes(folder, manifest)
    try:
        return {name: _full(tensor) for name, tensor in load(data).items()}
    except SafetensorError as error:
        raise CheckpointError(f"{manifest.file}: {error}") from error


def read_bytes(folder: Path, manifest: Manifest) -> bytes:
    """The weights file that belongs to the manifest. CheckpointError when it is not the one described."""
    path = folder / manifest.file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path.name}: cannot be read ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != manifest.weights:
        raise CheckpointError(f"{path.name}: damaged, or not the file that {manifest.part}.json describes")
    return data


def home(folder: Path, part: Part) -> Path:
    """Where a set's part is: in its folder. The detector of a folder that holds an encoder alone is the shipped one."""
    alone = (folder / "encoder.json").exists() and not any(folder.glob("detector.*"))
    return SHIPPED if part == "detector" and alone else folder


def verify(folder: Path) -> ModelCard:
    """The card of a model set whose files are all there and whole; imports no torch. CheckpointError otherwise."""
    for part in PARTS:
        place = home(folder, part)
        read_bytes(place, read_manifest(place, part))
    return describe(folder)


def describe(folder: Path) -> ModelCard:
    """The card of a model set. CheckpointError when a manifest is missing or of another format."""
    detector, encoder = (read_manifest(home(folder, part), part) for part in PARTS)
    joined = f"{detector.model_id}/{encoder.model_id}"
    return ModelCard(
        model_id=hashlib.sha256(joined.encode()).hexdigest()[:ID_LENGTH],
        detector_id=detector.model_id,
        encoder_id=encoder.model_id,
        kind=encoder.kind,
        dim=encoder.architecture["dim"],
        projections=tuple(name for name, trained in encoder.projections.items() if trained),
        regions=encoder.regions,
        unlike_thresholds={VOCABULARY.named(name).index: v for name, v in encoder.unlike_thresholds.items()},
        unlike_slack=encoder.unlike_slack,
        mean_boxes={VOCABULARY.named(name).index: tuple(box) for name, box in detector.mean_boxes.items()},
        metrics={"detector": detector.metrics, "encoder": encoder.metrics},
    )


def copy_model(source: Path, target: Path) -> ModelCard:
    """A checked, durable, complete copy of a model set: the folder appears whole under its name, or not at all.

    A target that already holds the same set is left as it is; one that holds anything else is a CheckpointError.
    """
    card = verify(source)
    if target.exists():
        if describe(target).model_id != card.model_id:
            raise CheckpointError(f"{target.name}: the folder already holds another model")
        return card
    scratch = target.with_name(f"{target.name}.part-{secrets.token_hex(4)}")
    scratch.mkdir(parents=True)
    for part in PARTS:
        place = home(source, part)
        manifest = read_manifest(place, part)
        _write(scratch / manifest.file, read_bytes(place, manifest))
        _write(scratch / f"{part}.json", (place / f"{part}.json").read_bytes())
    try:
        scratch.replace(target)
    except OSError:
        shutil.rmtree(scratch, ignore_errors=True)
        if not target.is_dir():  # else another node on this root was first
            raise
        return copy_model(source, target)
    _sync_folder(target.parent)
    return card


def _check(manifest: Manifest, part: Part, name: str) -> None:
    if manifest.format != FORMAT:
        raise CheckpointError(f"{name}: format {manifest.format}, this program reads format {FORMAT}")
    if manifest.part != part:
        raise CheckpointError(f"{name}: describes the {manifest.part}, expected the {part}")
    if manifest.kind not in KINDS[part]:
        raise CheckpointError(
            f"{name}: a {part} of kind {manifest.kind!r}, this program knows {', '.join(KINDS[part])}"
        )
    if manifest.regions != VOCABULARY.names:
        raise CheckpointError(f"{name}: its region list is not this program's vocabulary: {_other(manifest.regions)}")
    if manifest.identified(manifest.weights).model_id != manifest.model_id:
        raise CheckpointError(f"{name}: damaged, its model id does not follow from its content")
    if part == "encoder" and not isinstance(manifest.architecture.get("dim"), int):
        raise CheckpointError(f"{name}: does not say the dim of its vectors")


def _other(regions: tuple[str, ...]) -> str:
    """How a region list differs from the vocabulary."""
    missing = [name for name in VOCABULARY.names if name not in regions]
    extra = [str(name) for name in regions if name not in VOCABULARY.names]
    said = [f"{what} {', '.join(names)}" for what, names in (("missing", missing), ("unknown", extra)) if names]
    if not said and len(regions) != len(VOCABULARY):
        said = [f"{len(regions)} names for {len(VOCABULARY)} regions"]
    if not said:
        place = next(i for i, name in enumerate(VOCABULARY.names) if regions[i] != name)
        said = [f"another order, {regions[place]} stands where {VOCABULARY.names[place]} belongs"]
    return "; ".join(said)


def _compact(tensor: "Tensor") -> "Tensor":
    """fp16 for kernels and matrices, fp32 for vectors (biases, running statistics): half the size, same ranking."""
    plain = tensor.detach().cpu().contiguous()
    return plain.half() if plain.is_floating_point() and plain.dim() > 1 else plain


def _full(tensor: "Tensor") -> "Tensor":
    return tensor.float() if tensor.is_floating_point() else tensor


def _write(path: Path, data: bytes) -> None:
    """Scratch, fsync, rename, fsync the folder: a reader sees the old file or the new one."""
    scratch = path.with_name(path.name + ".part")
    with scratch.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
