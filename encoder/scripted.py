"""An encoder of anyone's: a TorchScript program and what its manifest says of it go in, vectors of boxes come out.

The program is called in one of two ways, float32 all, and answers (N, dim) vectors of unit norm:

frame  program((1, C, size, size), (N, 4)): the whole film, and boxes x1, y1, x2, y2 in pixels of that frame
crops  program((N, C, size, size)): a square around each box, as an image model takes pictures

Pixels are grey, 0..1 between two quantiles of the film (`preprocess.stretched`), high = bright, at true proportions,
black outside the film; then minus `mean`, over `std`. C is how many numbers these have.

Memory bound: crops go in eight at a time, whatever the number of boxes.
A program is code: it does what its maker wrote. Its digest is compared before it is loaded.
"""

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.checkpoint import Manifest, read_bytes, read_manifest
from encoder.errors import CheckpointError
from encoder.preprocess import STRETCH, placement, resized, stretched
from encoder.protocol import unit
from encoder.runtime import Encoding, Picture, Spacing

Input = Literal["frame", "crops"]
INPUTS: tuple[Input, ...] = get_args(Input)
SETTINGS: dict[str, object] = {"grey": "stretched", "stretch": list(STRETCH), "version": 1}
LARGEST = 4096  # pixels, side of anything
BATCH = 8  # crops
SMALLEST = 8  # frame pixels, side of what is cut out: below it there is nothing to see


@dataclass(frozen=True)
class ScriptShape:
    """How a program is called; part of its manifest."""

    input: Input
    size: int  # pixels, side of what the program sees: the frame, or a crop
    dim: int  # of each vector
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    context: float = 0.15  # crops: the square is this share larger than the longer side of the box
    film: int = 1024  # crops: pixels, side of the frame that they are cut from

    def __post_init__(self) -> None:
        wrong = [text for text, good in self._rules() if not good]
        if wrong:
            raise CheckpointError(f"encoder: {wrong[0]}")

    def _rules(self) -> list[tuple[str, bool]]:
        return [
            (f"input {self.input!r} is none of {', '.join(INPUTS)}", self.input in INPUTS),
            (f"sides are 16 to {LARGEST} pixels", all(16 <= side <= LARGEST for side in (self.size, self.film))),
            ("dim is at least 2", self.dim >= 2),
            (
                "mean and std are one number each, or three",
                len(self.mean) == len(self.std) and len(self.mean) in (1, 3),
            ),
            ("mean is finite", all(math.isfinite(value) for value in self.mean)),
            ("std is finite and above 0", all(0 < value < math.inf for value in self.std)),
            ("context is 0 to 4", 0 <= self.context <= 4),
        ]

    @classmethod
    def of(cls, manifest: Manifest) -> "ScriptShape":
        """The shape that a manifest holds. CheckpointError when it holds none."""
        said = manifest.architecture
        try:
            return cls(**{**said, "mean": tuple(said["mean"]), "std": tuple(said["std"])})
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"encoder.json: does not say how its program is called ({error})") from error

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True, eq=False)
class ScriptedEncoder:
    """A loaded program: `encode` keeps `encoder.protocol.Encoder`."""

    program: Any
    shape: ScriptShape
    manifest: Manifest
    device: str

    @classmethod
    def load(cls, folder: Path, device: str) -> "ScriptedEncoder":
        """CheckpointError when the folder holds no program, or another than its manifest describes."""
        manifest = read_manifest(folder, "encoder")
        if manifest.preprocessing != SETTINGS:
            raise CheckpointError("encoder.json: made for other preprocessing than this program does")
        return cls.of(manifest, read_bytes(folder, manifest), device)

    @classmethod
    def of(cls, manifest: Manifest, data: bytes, device: str) -> "ScriptedEncoder":
        """From the bytes of a program, whose digest has been compared."""
        return cls(_program(data, manifest.file, device), ScriptShape.of(manifest), manifest, device)

    @property
    def model_id(self) -> str:
        return self.manifest.model_id

    @property
    def dim(self) -> int:
        return self.shape.dim

    @property
    def size(self) -> int:
        return self.shape.film if self.shape.input == "crops" else self.shape.size

    @property
    def projections(self) -> tuple[str, ...]:
        return tuple(name for name, trained in self.manifest.projections.items() if trained)

    def encode(
        self, film: Picture, boxes: Sequence[Box], spacing_mm: tuple[float, float] | None
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32], None]:
        """Vectors (N, dim), the same for each projection; every anatomy equally likely; no local map."""
        vectors = np.zeros((0, self.dim), np.float32)
        if boxes:
            frame, places = self._frame(film, boxes, spacing_mm)
            vectors = unit(self._answer(frame, places), len(boxes), self.dim)
        unknown = np.full((len(boxes), len(VOCABULARY)), 1.0 / len(VOCABULARY), np.float32)
        return dict.fromkeys(self.projections, vectors), unknown, None

    def encode_many(
        self, films: Sequence[Picture], boxes: Sequence[Sequence[Box]], spacings_mm: Sequence[Spacing]
    ) -> list[Encoding]:
        """Film by film: whether the program takes several at once is not known."""
        return [self.encode(*each) for each in zip(films, boxes, spacings_mm, strict=True)]

    def _frame(
        self, film: Picture, boxes: Sequence[Box], spacing_mm: tuple[float, float] | None
    ) -> tuple[Tensor, Tensor]:
        """The film in its frame (size, size), grey 0..1, and the boxes (N, 4) in pixels of it."""
        placed = placement(film.image_height, film.image_width, spacing_mm, self.size)
        grey = stretched(resized(film.pixels, placed.height, placed.width))
        right, bottom = placed.size - placed.left - placed.width, placed.size - placed.top - placed.height
        places = torch.tensor([placed.to_frame(box) for box in boxes], dtype=torch.float32) * placed.size
        return F.pad(grey, (placed.left, right, placed.top, bottom)), places

    def _answer(self, frame: Tensor, places: Tensor) -> NDArray[np.float32]:
        if self.shape.input == "frame":
            return self._call(self._coloured(frame[None]), places.to(self.device))
        crops = [_cut(frame, Box(*place), self.shape) for place in places.tolist()]
        batches = [torch.stack(crops[start : start + BATCH]) for start in range(0, len(crops), BATCH)]
        return np.concatenate([self._call(self._coloured(batch)) for batch in batches])

    def _coloured(self, grey: Tensor) -> Tensor:
        """(N, size, size) -> (N, C, size, size), normalised."""
        mean, std = (torch.tensor(row)[:, None, None] for row in (self.shape.mean, self.shape.std))
        return ((grey[:, None] - mean) / std).contiguous().to(self.device)

    def _call(self, *given: Tensor) -> NDArray[np.float32]:
        # TorchScript rewrites a program after it has watched it run: the first film would be computed otherwise than
        # the third.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            answer = self.program(*given)
        if not isinstance(answer, Tensor) or not answer.is_floating_point():
            raise CheckpointError(f"{self.manifest.file}: answers no tensor of vectors")
        return np.asarray(answer.detach().float().cpu().numpy(), dtype=np.float32)


def _program(data: bytes, name: str, device: str) -> Any:
    with warnings.catch_warnings():
        # Deprecated by torch for one of its own; the version that reads it is pinned in etc/constraints.txt.
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.", category=DeprecationWarning)
        try:
            program = torch.jit.load(io.BytesIO(data), map_location=device)  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"{name}: no TorchScript program: {said}") from error
    return program.eval()


def _cut(frame: Tensor, box: Box, shape: ScriptShape) -> Tensor:
    """The square around a box, with context, (size, size); each pixel the mean of those it covers."""
    side = max(SMALLEST, round(max(box.width, box.height) * (1.0 + shape.context)))
    left, top = (round(centre - side / 2) for centre in ((box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2))
    limit = len(frame)
    inside = frame[max(top, 0) : min(top + side, limit), max(left, 0) : min(left + side, limit)]
    margins = (max(-left, 0), max(left + side - limit, 0), max(-top, 0), max(top + side - limit, 0))
    return resized(F.pad(inside, margins), shape.size, shape.size)
