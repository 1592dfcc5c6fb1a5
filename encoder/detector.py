"""The network's frame goes in, 29 slots of (box, presence) come out: where each region is, and whether it is there.

Each region occurs at most once, so there are no anchors and nothing to suppress. Each slot has four maps, one for each
edge of its box; a map's soft-argmax (Sun et al., Integral Human Pose Regression, arXiv 1711.08229) along the edge's
direction is the edge. A map is free to look where the edge can be seen (the outermost point of a lung, say).
Presence is read from the deep features under those maps: a region cropped out of the film is absent, not a guess.
Certainty is read from the same features and from how wide the maps are: the IoU that the box is likely to have.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.anatomy import VOCABULARY
from encoder.trunk import Trunk, TrunkShape, convolution

EDGES = 4
LEAST_SIDE = 0.01  # of the frame: below it a box has no size to compare with
OVERSHOOT = 1.04  # an expectation over cell centres cannot reach the frame's rim: coordinates are stretched to it


@dataclass(frozen=True)
class DetectorShape:
    """The architecture; part of a model's manifest."""

    trunk: TrunkShape = field(default_factory=TrunkShape)
    slots: int = len(VOCABULARY)
    size: int = 256  # pixels, side of the frame
    head: int = 48  # channels under the edge maps

    def plain(self) -> dict[str, object]:
        return {"trunk": self.trunk.plain(), "slots": self.slots, "size": self.size, "head": self.head}


class Slots(NamedTuple):
    """What the detector says of each film and slot."""

    boxes: Tensor  # (B, K, 4) x1, y1, x2, y2 in shares of the frame
    presence: Tensor  # (B, K) logits
    certainty: Tensor  # (B, K) logits of the IoU that the box is likely to have


class Detector(nn.Module):
    """(B, 2, S, S) -> `Slots`."""

    def __init__(self, shape: DetectorShape) -> None:
        super().__init__()
        self.shape = shape
        self.trunk = Trunk(shape.trunk)
        self.head = convolution(shape.trunk.width, shape.head)
        self.edges = nn.Conv2d(shape.head, shape.slots * EDGES, 1)
        deep = shape.trunk.width + shape.trunk.stages[-1]
        self.presence = nn.Parameter(torch.randn(shape.slots, deep) * 0.02)
        self.presence_bias = nn.Parameter(torch.zeros(shape.slots))
        self.certainty = nn.Parameter(torch.randn(shape.slots, deep + EDGES) * 0.02)
        self.certainty_bias = nn.Parameter(torch.zeros(shape.slots))

    def forward(self, frames: Tensor) -> Slots:
        fine, middle, deep = self.trunk(frames)  # (B, C, S/4, S/4), (B, C, S/8, S/8), (B, D, S/32, S/32)
        logits = self.edges(self.head(fine))  # (B, K * 4, S/4, S/4)
        weights = logits.flatten(2).softmax(-1).view_as(logits).unflatten(1, (self.shape.slots, EDGES))
        boxes, spread = self._edges(weights)
        seen = _seen(weights, middle, deep)  # (B, K, deep)
        presence = (seen * self.presence).sum(-1) + self.presence_bias
        # Detached: the box is not to become worse for being easier to judge.
        told = torch.cat([seen, _relative(spread, boxes)], dim=-1).detach()
        return Slots(boxes, presence, (told * self.certainty).sum(-1) + self.certainty_bias)

    def _edges(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, 4, h, w) attention -> mean and deviation of x in maps 0 and 2, of y in maps 1 and 3: (B, K, 4)."""
        x, wide = _moments(weights[:, :, 0::2].sum(-2))  # (B, K, 2)
        y, high = _moments(weights[:, :, 1::2].sum(-1))
        return _interleaved(x, y), _interleaved(wide, high)


def _seen(weights: Tensor, middle: Tensor, deep: Tensor) -> Tensor:
    """The features under a slot's four maps: (B, K, D)."""
    attention = F.avg_pool2d(weights.mean(2), 2) * 4.0  # (B, K, S/8, S/8), sums to 1
    features = torch.cat([middle, F.interpolate(deep, size=middle.shape[-2:], mode="nearest")], dim=1)
    return torch.einsum("bkhw,bchw->bkc", attention, features)


def _relative(spread: Tensor, boxes: Tensor) -> Tensor:
    """The width of each edge's map beside the box's own side, on a logarithmic scale: (B, K, 4)."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp_min(LEAST_SIDE).repeat(1, 1, 2)
    return (spread / sides + LEAST_SIDE).log()


def _moments(along: Tensor) -> tuple[Tensor, Tensor]:
    """(..., n) weights that sum to 1 -> mean place and standard deviation, shares of the frame."""
    centres = _centres(along)
    mean = along @ centres
    return mean, (along @ (centres * centres) - mean * mean).clamp_min(0.0).sqrt()


def _interleaved(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def _centres(of: Tensor) -> Tensor:
    """Cell centres 0..1 along the last dimension, stretched about the middle."""
    cells = of.shape[-1]
    return ((torch.arange(cells, dtype=of.dtype, device=of.device) + 0.5) / cells - 0.5) * OVERSHOOT + 0.5
