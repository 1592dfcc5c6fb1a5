"""A partition in, checked files out, and back: what spares a start the reading of every vector from SQL.

index/<generation>/<projection>-<anatomy>.json is the manifest: what the partition is, how far it is, the size and
SHA-256 of its data files, and the SHA-256 of itself. Data files carry their watermark in their name and are written
before the manifest that names them, so a crash leaves the old snapshot or the new one.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage.durable import make_folder, replacing, reported, sync_folders
from storage.errors import FileError, SnapshotDamaged
from storage.records import Generation
from storage.vectors.exact import checksum
from storage.vectors.hnsw import HnswIndex
from storage.vectors.partition import Key, Partition

FORMAT = 1


@dataclass(frozen=True)
class Origin:
    """What a snapshot must be of, to be of use: compared field by field."""

    format: int
    generation: int
    created_at: float  # tells the generations of two databases apart
    model: str
    projection: str
    place: int
    anatomy: int
    dim: int


def origin(generation: Generation, key: Key) -> Origin:
    model = generation.model
    name = model.projections[key.place]
    return Origin(FORMAT, generation.id, generation.created_at, model.id, name, key.place, key.anatomy, model.dim)


class Snapshots:
    """The folder of snapshots. One process writes; any may read."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _manifest(self, key: Key) -> Path:
        return self._root / str(key.generation) / f"{key.place}-{key.anatomy}.json"

    def save(self, of: Origin, partition: Partition) -> None:
        """Replace the partition's snapshot. StorageFull, FileError: the old one is intact.

        The caller keeps the partition from changing.
        """
        manifest = self._manifest(partition.key)
        with reported("index folder"):
            sync_folders(make_folder(manifest.parent, self._root.parent))  # that is there, unless the device is gone
        names = {"exact": partition.exact} | ({"hnsw": partition.graph} if partition.graph else {})
        files = {}
        for kind, index in names.items():
            path = manifest.with_name(f"{manifest.stem}.{partition.watermark}.{kind}")
            index.save(path)
            files[kind] = {"name": path.name, "size": path.stat().st_size, "sha256": checksum(path)}
        content = {**asdict(of), "watermark": partition.watermark, "rows": len(partition), "files": files}
        with reported("index manifest"), replacing(manifest) as scratch:
            scratch.write_text(json.dumps(content | {"checksum": _sum(content)}, indent=1))
        partition.saved = partition.watermark
        self._tidy(manifest, {str(file["name"]) for file in files.values()})

    def _tidy(self, manifest: Path, current: set[str]) -> None:
        """Remove data files that the manifest no longer names."""
        with reported("index folder"):
            for path in manifest.parent.glob(f"{manifest.stem}.*"):
                if path != manifest and path.name not in current:
                    path.unlink(missing_ok=True)

    def load(self, of: Origin, partition: Partition, counter: int) -> None:
        """Fill an empty partition. SnapshotDamaged when there is no snapshot that is whole and of this origin."""
        manifest = self._manifest(partition.key)
        content = _read_manifest(manifest)
        for name, expected in asdict(of).items():
            if content.get(name) != expected:
                raise SnapshotDamaged(f"index manifest: {name} is {content.get(name)!r}, not {expected!r}")
        if content["watermark"] > counter:
            raise SnapshotDamaged("index manifest: newer than the database")
        try:
            _fill(partition, {kind: _checked(manifest.parent, file) for kind, file in content["files"].items()})
        except FileError as error:  # its owner has put others in the place of these, since the manifest was read
            raise SnapshotDamaged(str(error)) from None
        if len(partition) != content["rows"]:
            raise SnapshotDamaged(f"index file: {len(partition)} rows, not {content['rows']}")
        partition.watermark = partition.saved = content["watermark"]

    def drop(self, generation: int) -> None:
        """Remove every snapshot of a generation."""
        folder = self._root / str(generation)
        with reported("index folder"):
            for path in sorted(folder.glob("*")):
                path.unlink(missing_ok=True)
            if folder.is_dir():
                folder.rmdir()

    def keys(self, generation: int) -> list[Key]:
        """The partitions of a generation that have a snapshot."""
        names = (path.stem.split("-") for path in (self._root / str(generation)).glob("*-*.json"))
        return sorted((Key(generation, *map(int, parts)) for parts in names), key=lambda key: (key.place, key.anatomy))

    def remove(self, key: Key) -> None:
        """Remove a partition's snapshot, the manifest first."""
        manifest = self._manifest(key)
        with reported("index folder"):
            for path in (manifest, *sorted(manifest.parent.glob(f"{manifest.stem}.*"))):
                path.unlink(missing_ok=True)

    def sweep(self, older_than: float) -> int:
        """Remove what a process that was killed left half written; returns how many files went.

        Files changed since `older_than` (seconds since 1970) stay: somebody may be writing them.
        """
        removed = 0
        with reported("index folder"):
            for path in self._root.glob("*/.*"):
                if path.stat().st_mtime < older_than:
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def generations(self) -> list[int]:
        """The generations that have snapshots."""
        return sorted(int(path.name) for path in self._root.glob("*") if path.name.isdecimal())


def _fill(partition: Partition, paths: dict[str, Path]) -> None:
    partition.exact.load(paths["exact"])
    if "hnsw" in paths:
        graph = HnswIndex(partition.exact.dim)
        graph.load(paths["hnsw"])
        partition.graph = graph


def _sum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest's content, after its own checksum has been compared."""
    try:
        content = json.loads(path.read_bytes())
        stated = content.pop("checksum")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SnapshotDamaged(f"index manifest: {type(error).__name__}") from None
    if stated != _sum(content):
        raise SnapshotDamaged("index manifest: its checksum is wrong")
    return dict(content)


def _checked(folder: Path, file: dict[str, Any]) -> Path:
    path = folder / str(file["name"])
    try:
        size = path.stat().st_size
    except OSError as error:
        raise SnapshotDamaged(f"index file: {error.strerror}") from None
    if size != file["size"] or checksum(path) != file["sha256"]:
        raise SnapshotDamaged("index file: its checksum is wrong")
    return path
