"""The effective settings in, the names of those that are others than at the last start out: for the audit trail.

Kept under the root as digests, so that no secret is written anywhere: `settings.json`.
"""

import hashlib
import json
from pathlib import Path
from typing import Final

from dicomnode.settings import Config, values
from storage.durable import replacing, reported

NAME: Final = "settings.json"


def since_last_start(config: Config, root: Path) -> list[str]:
    """Which settings have changed; none at the first start. What is found now is kept for the next. FileError."""
    now, path = _digests(config), root / NAME
    before = _read(path)
    if before != now:
        with reported("settings of the last start"), replacing(path) as scratch:
            scratch.write_text(json.dumps(now, indent=1, sort_keys=True))
    if before is None:
        return []
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _digests(config: Config) -> dict[str, str]:
    return {name: hashlib.sha256(repr(value).encode()).hexdigest()[:16] for name, value in values(config).items()}


def _read(path: Path) -> dict[str, str] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
