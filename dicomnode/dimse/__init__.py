"""The DICOM port: associations in, acknowledged instances and query responses out. Imports no model and no SQL."""
