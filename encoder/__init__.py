"""Pixels in, anatomical regions and unit vectors out. Knows no DICOM, no SQL; the way in is `encoder.pipeline`."""
