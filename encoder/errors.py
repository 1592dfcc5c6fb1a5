"""What can go wrong between pixels and vectors.

EncoderError
├── CheckpointError     weights or manifest missing, damaged, or not of this format
├── ImageError          pixels that are no picture a model can take
└── TrainingDataError   a data folder that cannot be read as films with regions
    └── NoFindings      films of which nobody said what they show
"""


class EncoderError(Exception):
    """Root of every error the encoder package raises on purpose."""


class CheckpointError(EncoderError):
    """Weights or their manifest are missing, damaged, or disagree."""


class ImageError(EncoderError):
    """An array that is not a (H, W) picture with some contrast."""


class TrainingDataError(EncoderError):
    """A folder of films that is not laid out as expected."""


class NoFindings(TrainingDataError):
    """Films that say nothing of what their regions show: all but findings can be learnt from them."""
