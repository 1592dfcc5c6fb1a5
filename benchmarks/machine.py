"""What a measurement was made on: a line for below its table."""

import os
import platform
import re
import shutil
import subprocess
from datetime import date
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("pynetdicom", "pydicom", "SQLAlchemy", "hnswlib", "numpy", "torch", "openvino", "faiss-cpu")
PROGRAMS = {"Orthanc": ("Orthanc", "--version"), "DCMTK": ("storescu", "--version")}
_NUMBER = re.compile(r"\bv?(\d+\.\d+\.\d+)\b")


def note() -> str:
    """Cores, processor and versions, as far as they are known, and the day."""
    parts = [f"{os.cpu_count()} cores, {platform.machine()}", f"Python {platform.python_version()}"]
    parts += [f"{name} {found}" for name in PACKAGES if (found := _package(name))]
    parts += [f"{name} {found}" for name, command in PROGRAMS.items() if (found := _program(command))]
    return f"{', '.join(parts)}; {date.today().isoformat()}."


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _program(command: tuple[str, ...]) -> str:
    """What the system's program says of itself; another of its name may stand in the environment of Python."""
    path = shutil.which(command[0], path="/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin")
    if path is None:
        return ""
    told = subprocess.run([path, *command[1:]], capture_output=True, text=True, check=False).stdout
    found = _NUMBER.search(told)
    return found[1] if found else ""
