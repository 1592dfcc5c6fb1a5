"""What the node keeps: files, catalogue, jobs, regions and vectors. The way in is `storage.store.Store`.

No DICOM here: headers and UIDs are opaque bytes and strings. No model here: vectors are plain arrays.
"""
