"""The network's frame goes in, feature maps at 1/4 and 1/8 of its side come out: the body of detector and encoder.

A small residual pyramid of MONAI blocks. The stem strides (MONAI's own ResNet stem does not, at four times the cost),
and a top-down path gives every cell of the fine maps a view of the whole film: what tells a right mid zone from a left
one is seldom inside its box.
"""

from dataclasses import asdict, dataclass

import torch.nn.functional as F
from monai.networks.blocks import Convolution, ResidualUnit
from torch import Tensor, nn

from encoder.preprocess import CHANNELS


@dataclass(frozen=True)
class TrunkShape:
    """The widths of the trunk; part of a model's manifest."""

    stem: int = 24
    stages: tuple[int, ...] = (40, 80, 128, 160)  # at 1/4, 1/8, 1/16 and 1/32 of the frame
    width: int = 64  # channels of the maps that come out

    def plain(self) -> dict[str, object]:
        return {**asdict(self), "stages": list(self.stages)}


def convolution(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Module:
    """Convolution, batch normalisation, ReLU."""
    block: nn.Module = Convolution(
        spatial_dims=2,
        in_channels=inputs,
        out_channels=outputs,
        strides=stride,
        kernel_size=kernel,
        act="RELU",
        norm="BATCH",
        bias=False,
    )
    return block


def _stage(inputs: int, outputs: int) -> nn.Module:
    unit = ResidualUnit(
        spatial_dims=2, in_channels=outputs, out_channels=outputs, subunits=2, act="RELU", norm="BATCH", bias=False
    )
    return nn.Sequential(convolution(inputs, outputs, stride=2), unit)


class Trunk(nn.Module):
    """(B, 2, S, S) -> (B, width, S/4, S/4), (B, width, S/8, S/8) and (B, stages[-1], S/32, S/32). S: multiple of 32."""

    def __init__(self, shape: TrunkShape) -> None:
        super().__init__()
        self.stem = convolution(CHANNELS, shape.stem, stride=2)
        inputs = (shape.stem, *shape.stages[:-1])
        self.stages = nn.ModuleList([_stage(a, b) for a, b in zip(inputs, shape.stages, strict=True)])
        self.laterals = nn.ModuleList([nn.Conv2d(width, shape.width, 1) for width in shape.stages])

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = [self.stem(frames)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        deepest = maps[-1]
        merged = self.laterals[-1](deepest)
        out: list[Tensor] = []
        for lateral, fine in zip(reversed(self.laterals[:-1]), reversed(maps[1:-1]), strict=True):
            merged = lateral(fine) + F.interpolate(merged, scale_factor=2.0, mode="nearest")
            out.append(merged)
        return out[-1], out[-2], deepest
