"""Drawn films as files: what every benchmark sends and encodes."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from dicomnode.demo import films

COUNT = 24


@cache
def drawn(count: int = COUNT) -> tuple[Path, ...]:
    """DX files of 512 x 512, drawn once a run."""
    folder = Path(mkdtemp(prefix="bench-films-"))
    return tuple(films.drawn(folder, count, lambda *_: None))
