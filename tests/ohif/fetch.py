"""OHIF as its makers built it: one npm package, pinned by version and hash, becomes a folder that can be served.

`npm pack` fetches the package alone. Its dependencies are those of building it, hundreds of them: they are not needed.
"""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

PACKAGE: Final = "@ohif/app@3.12.10"
INTEGRITY: Final = "sha512-0kuF66Mq9c9dMD++bUsTjMrJpXJwaZhz9B4uS244DawAjSkTwIYFU93pxPuRUQixaRi7QAHlF3Fe1qudBlZrmA=="
FOLDER: Final = Path(__file__).resolve().parents[2] / "build" / "peers" / "ohif"
PAGES: Final = FOLDER / "dist"
_STAMP: Final = "integrity"  # in FOLDER: what it was made of
_SAFELY: Final[dict[str, Any]] = (
    {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
)  # Python 3.11.4 and later


def is_there() -> bool:
    """Whether this very version is unpacked."""
    stamp = FOLDER / _STAMP
    return stamp.is_file() and stamp.read_text() == INTEGRITY


def fetch() -> None:
    """Fetch and unpack it. ValueError when the package is another one than pinned, CalledProcessError by npm."""
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as scratch:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(scratch).glob("*.tgz")
        _check(archive)
        _unpack(archive, Path(scratch))
        shutil.rmtree(FOLDER, ignore_errors=True)
        (Path(scratch) / "package").rename(FOLDER)


def _check(archive: Path) -> None:
    with archive.open("rb") as file:
        found = "sha512-" + base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if found != INTEGRITY:
        raise ValueError(f"{PACKAGE} is not what it was: {found}")


def _unpack(archive: Path, into: Path) -> None:
    """Everything but source maps; the stamp last."""
    with tarfile.open(archive) as package:
        wanted = [member for member in package if not member.name.endswith(".map")]
        package.extractall(into, wanted, **_SAFELY)
    (into / "package" / _STAMP).write_text(INTEGRITY)


if __name__ == "__main__":
    if not is_there():
        fetch()
    sys.stdout.write(f"OHIF: {os.path.relpath(FOLDER)}\n")
