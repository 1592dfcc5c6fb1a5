"""An indexer whose codec aborts on one film, as a native library would: `python -m tests.integration.crashing FD`."""

import os
from pathlib import Path
from typing import Any

from dicomnode.pixels import decode
from dicomnode.workers import indexer

POISON = "POISON"  # Patient ID of the film that the codec does not survive


def main() -> None:
    """The real process, with one codec replaced."""
    values = decode._values

    def crashing(decoder: Any, dataset: Any, path: Path, *rest: Any) -> Any:
        if dataset.PatientID == POISON:
            os.abort()
        return values(decoder, dataset, path, *rest)

    decode._values = crashing
    indexer.main()


if __name__ == "__main__":
    main()
