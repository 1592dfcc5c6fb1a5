"""What can go wrong between pixels and vectors.

EncoderError
├── CheckpointError     weights or manifest missing, damaged, or not of this format
├── ImageError          pixels that are no picture a model can take
└── TrainingDataError   a data folder that cannot be read as films with regions
"""


class EncoderError(Exception):
    """Root of every error the encoder package raises on purpose."""


class CheckpointError(EncoderError):
    """Weights or their manifest are missing, damaged, or disagree."""


class ImageError(EncoderError):
    """An array that is not a (H, W) picture with some contrast."""


class TrainingDataError(EncoderError):
    """A folder of films that is not laid out as expected."""
