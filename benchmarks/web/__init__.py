"""What viewers and browsers wait for: this node, and Orthanc with its DICOMweb plugin where it is installed.

`run` is the whole: an archive of films with the shipped models for the questions (`saving`, `pages`), one of many small
studies, large frames and a CT series beside Orthanc for the rest (`pictures`, `search`, `series`).
"""

from benchmarks.web.run import run

__all__ = ["run"]
