"""A folder goes in, a small untrained model set is written into it: of the shipped kind, with few channels."""

from pathlib import Path

import torch

from encoder.checkpoint import Manifest, save
from encoder.detector import Detector, DetectorShape
from encoder.preprocess import SETTINGS
from encoder.roi_encoder import EncoderShape, RoiEncoder
from encoder.trunk import TrunkShape

TRUNK = TrunkShape(stem=4, stages=(4, 8, 8, 8), width=8)
DETECTOR = DetectorShape(trunk=TRUNK, size=64, head=8)
ENCODER = EncoderShape(trunk=TRUNK, size=96, roi=8, hidden=16, dim=8)


def write(folder: Path, seed: int = 0, presence: float = 0.0) -> Path:
    torch.manual_seed(seed)
    common = {"preprocessing": SETTINGS, "data": "made up", "seed": seed, "commit": None, "metrics": {"iou": 0.5}}
    detector = Manifest(part="detector", architecture=DETECTOR.plain(), presence=presence, **common)  # type: ignore[arg-type]
    save(folder, detector, Detector(DETECTOR).state_dict())
    encoder = Manifest(
        part="encoder",
        architecture=ENCODER.plain(),
        projections={"anatomy": True, "finding": False},
        unlike_thresholds={"right lung": 0.25},
        **common,  # type: ignore[arg-type]
    )
    save(folder, encoder, RoiEncoder(ENCODER).state_dict())
    return folder
