"""What the fault tests share: file systems to be filled."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Callable[[str, int], Path]]:
    """Make a folder a file system of its own, of so many MiB: it fills, becomes read-only, or goes away."""
    mounted: list[Path] = []

    def mount(name: str, mib: int) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)
