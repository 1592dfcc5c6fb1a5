"""What a result object is to be made of, and the reply, as values: between the node and `workers.scribe`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dicomnode.pixels.eligibility import DecodeLimits
from dicomnode.settings import LogSettings
from dicomnode.sr.result import Facts, Place, ResultHit
from encoder.boxes import Box


@dataclass(frozen=True)
class ScribeSettings:
    """What the child is told when it starts."""

    limits: DecodeLimits
    log: LogSettings


@dataclass(frozen=True)
class Source:
    """Where a hit's picture comes from: a film of the archive, which the picture does not name."""

    file: Path
    box: Box
    frame: int = 1


@dataclass(frozen=True)
class ReportRequest:
    """A result SR. `headers`: encoded headers of the images that hits lie on, the asking one first."""

    headers: Mapping[str, bytes]
    asked: Place
    hits: tuple[ResultHit, ...]
    facts: Facts
    target: Path


@dataclass(frozen=True)
class PanelRequest:
    """A result panel: the asking region, and each hit with the film that it is on."""

    header: bytes
    asked: Source
    hits: tuple[tuple[ResultHit, Source], ...]  # best first; those beyond MOST_SHOWN are not shown
    warnings: tuple[str, ...]
    facts: Facts
    target: Path


Request = ReportRequest | PanelRequest


@dataclass(frozen=True)
class Written:
    """The file is there. `shown`: hits in a panel."""

    shown: int = 0
