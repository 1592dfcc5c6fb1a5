"""The network's frame and boxes go in, one unit vector for each box and projection comes out.

One pass of the trunk serves every region of a film; a region is a 14 x 14 bilinear sample of the feature map, with
some context around its box, pooled to 7 x 7. Two projections read it: `anatomy` is trained region-contrastive and by
classification (arXiv 2305.05598), `finding` is offered where it has beaten chance on held patients.
A classification head tells which anatomy a drawn box belongs to. A local head makes the map of `encoder.local`: what
the film looks like at each place, for an ROI too small to be a region. With `crops` the other way is taken, which is
there to be compared with: each region is cut from the frame itself and goes through the trunk alone.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.anatomy import VOCABULARY
from encoder.preprocess import CHANNELS
from encoder.trunk import Trunk, TrunkShape, convolution

SAMPLES = 14  # points sampled along each side of a box
CELLS = 7  # what they are pooled to
PROJECTIONS = ("anatomy", "finding")


@dataclass(frozen=True)
class EncoderShape:
    """The architecture; part of a model's manifest."""

    trunk: TrunkShape = field(default_factory=TrunkShape)
    classes: int = len(VOCABULARY)
    size: int = 384  # pixels, side of the frame
    context: float = 0.15  # a box is grown by this share of its sides: bare crops lose what they need
    roi: int = 96  # channels of the region's own convolutions
    hidden: int = 256
    dim: int = 128  # of each projection
    local: int = 8  # channels of the local map
    texture: int = 32  # channels that the local head reads off the frame itself
    crops: int = 0  # side of a region cut from the frame, a multiple of 32; 0: cut from the one pass over the film

    def plain(self) -> dict[str, object]:
        return {
            "trunk": self.trunk.plain(),
            "classes": self.classes,
            "size": self.size,
            "context": self.context,
            "roi": self.roi,
            "hidden": self.hidden,
            "dim": self.dim,
            "local": self.local,
            "texture": self.texture,
            "crops": self.crops,
        }


class Features(NamedTuple):
    """What is read off a film once."""

    regions: Tensor  # (B, C, S/8, S/8): the map that every region is cut from; the frames themselves with `crops`
    local: Tensor  # (B, local, S/8, S/8): unit vectors, what the film looks like at each place


@dataclass(frozen=True, eq=False)
class Encoded:
    """What one pass says about each box, and about the film."""

    vectors: dict[str, Tensor]  # projection -> (B, N, dim), unit norm
    anatomy: Tensor  # (B, N, classes) logits
    hidden: Tensor  # (B, N, hidden): what the projections and the classifier read
    local: Tensor  # (B, local, S/8, S/8)


class LocalHead(nn.Module):
    """(B, 2, S, S) frames and (B, C, S/4, S/4) trunk features -> (B, local, S/8, S/8) unit vectors.

    It has eyes of its own: the trunk learns to see past a nodule or a texture to the anatomy behind it.
    """

    def __init__(self, width: int, texture: int, local: int) -> None:
        super().__init__()
        self.eyes = nn.Sequential(
            convolution(CHANNELS, texture // 2, stride=2), convolution(texture // 2, texture, stride=2)
        )
        self.joined = nn.Sequential(
            convolution(width + texture, 2 * texture, stride=2), convolution(2 * texture, 2 * texture)
        )
        self.out = nn.Conv2d(2 * texture, local, 1)

    def forward(self, frames: Tensor, fine: Tensor) -> Tensor:
        return F.normalize(self.out(self.joined(torch.cat([self.eyes(frames), fine], dim=1))), dim=1)


class RoiEncoder(nn.Module):
    """(B, 2, S, S) and (B, N, 4) boxes in shares of the frame -> `Encoded`."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.trunk = Trunk(shape.trunk)
        self.region = nn.Sequential(
            convolution(shape.trunk.width, shape.roi),
            convolution(shape.roi, shape.roi, stride=2),  # 7 x 7 -> 4 x 4: the layout inside a region is kept
            nn.Flatten(),
            nn.Linear(shape.roi * 16, shape.hidden),
            nn.ReLU(),
        )
        self.projections = nn.ModuleDict({name: nn.Linear(shape.hidden, shape.dim) for name in PROJECTIONS})
        self.classifier = nn.Linear(shape.hidden, shape.classes)
        self.local = LocalHead(shape.trunk.width, shape.texture, shape.local)

    def forward(self, frames: Tensor, boxes: Tensor) -> Encoded:
        return self.embed(self.features(frames), boxes)

    def features(self, frames: Tensor) -> Features:
        """The one pass over a film."""
        if self.shape.crops:  # no pass over the film, so no local map
            return Features(frames, frames.new_zeros(len(frames), self.shape.local, 1, 1))
        fine, middle, _ = self.trunk(frames)
        return Features(middle, self.local(frames, fine))

    def embed(self, features: Features, boxes: Tensor) -> Encoded:
        """What is cut from it for each box."""
        batch, count = boxes.shape[:2]
        hidden = self.region(self._cut(features.regions, boxes))  # (B * N, hidden)
        vectors = {
            name: F.normalize(project(hidden), dim=-1).view(batch, count, -1)
            for name, project in self.projections.items()
        }
        anatomy = self.classifier(hidden).view(batch, count, -1)
        return Encoded(vectors, anatomy, hidden.view(batch, count, -1), features.local)

    def _cut(self, source: Tensor, boxes: Tensor) -> Tensor:
        """(B * N, C, 7, 7) of each box."""
        if self.shape.crops:
            middle: Tensor = self.trunk(crop(source, boxes, self.shape.context, self.shape.crops))[1]
            return F.interpolate(middle, size=(CELLS, CELLS), mode="bilinear", align_corners=False)
        return F.avg_pool2d(crop(source, boxes, self.shape.context, SAMPLES), SAMPLES // CELLS)


def crop(features: Tensor, boxes: Tensor, context: float, samples: int) -> Tensor:
    """(B, C, h, w) and (B, N, 4) shares of the frame -> (B * N, C, samples, samples). Outside the frame is 0.

    All boxes of a film are one tall sampling grid, so the map is read once.
    """
    batch, count = boxes.shape[:2]
    size = (boxes[..., 2:] - boxes[..., :2]) * (1.0 + context)  # (B, N, 2): width, height
    centre = boxes[..., :2] + boxes[..., 2:] - 1.0  # -1..1 over the frame
    along = (torch.arange(samples, dtype=boxes.dtype, device=boxes.device) * 2 + 1) / samples - 1.0
    places = centre[..., None] + size[..., None] * along  # (B, N, 2, samples): x of the columns, y of the rows
    x, y = places[..., 0, None, :], places[..., 1, :, None]
    grid = torch.stack([x.expand(-1, -1, samples, -1), y.expand(-1, -1, -1, samples)], dim=-1)
    tall = grid.reshape(batch, count * samples, samples, 2)
    sampled = F.grid_sample(features, tall, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled.view(batch, -1, count, samples, samples).transpose(1, 2).flatten(0, 1)
