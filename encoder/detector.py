"""The network's frame goes in, 29 slots of (box, presence) come out: where each region is, and whether it is there.

Each region occurs at most once, so there are no anchors and nothing to suppress. Each slot has four maps, one for each
edge of its box; a map's soft-argmax (Sun et al., Integral Human Pose Regression, arXiv 1711.08229) along the edge's
direction is the edge. A map is free to look where the edge can be seen (the outermost point of a lung, say).
Presence is read from the deep features under those maps: a region cropped out of the film is absent, not a guess.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.anatomy import VOCABULARY
from encoder.trunk import Trunk, TrunkShape, convolution

EDGES = 4
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


class Detector(nn.Module):
    """(B, 2, S, S) -> boxes (B, K, 4) as x1, y1, x2, y2 in shares of the frame, and presence logits (B, K)."""

    def __init__(self, shape: DetectorShape) -> None:
        super().__init__()
        self.shape = shape
        self.trunk = Trunk(shape.trunk)
        self.head = convolution(shape.trunk.width, shape.head)
        self.edges = nn.Conv2d(shape.head, shape.slots * EDGES, 1)
        deep = shape.trunk.width + shape.trunk.stages[-1]
        self.presence = nn.Parameter(torch.randn(shape.slots, deep) * 0.02)
        self.presence_bias = nn.Parameter(torch.zeros(shape.slots))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        fine, middle, deep = self.trunk(frames)  # (B, C, S/4, S/4), (B, C, S/8, S/8), (B, D, S/32, S/32)
        logits = self.edges(self.head(fine))  # (B, K * 4, S/4, S/4)
        weights = logits.flatten(2).softmax(-1).view_as(logits).unflatten(1, (self.shape.slots, EDGES))
        return self._boxes(weights), self._presence(weights, middle, deep)

    def _boxes(self, weights: Tensor) -> Tensor:
        """(B, K, 4, h, w) attention -> (B, K, 4): expected x of maps 0 and 2, expected y of maps 1 and 3."""
        along_x, along_y = weights[:, :, 0::2].sum(-2), weights[:, :, 1::2].sum(-1)  # (B, K, 2, w), (B, K, 2, h)
        x, y = along_x @ _centres(along_x), along_y @ _centres(along_y)  # (B, K, 2)
        return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)

    def _presence(self, weights: Tensor, middle: Tensor, deep: Tensor) -> Tensor:
        """The features under a slot's four maps, weighed for that slot: (B, K)."""
        attention = F.avg_pool2d(weights.mean(2), 2) * 4.0  # (B, K, S/8, S/8), sums to 1
        features = torch.cat([middle, F.interpolate(deep, size=middle.shape[-2:], mode="nearest")], dim=1)
        seen = torch.einsum("bkhw,bchw->bkc", attention, features)
        return (seen * self.presence).sum(-1) + self.presence_bias


def _centres(of: Tensor) -> Tensor:
    """Cell centres 0..1 along the last dimension, stretched about the middle."""
    cells = of.shape[-1]
    return ((torch.arange(cells, dtype=of.dtype, device=of.device) + 0.5) / cells - 0.5) * OVERSHOOT + 0.5
