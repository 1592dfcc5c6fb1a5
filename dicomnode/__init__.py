"""What speaks DICOM and runs processes. Composes `encoder` (pixels to vectors) and `storage` (what is kept)."""

__version__ = "0.1.0"
