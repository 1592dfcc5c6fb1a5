"""An archive in use in, a folder that holds one state of it out; and back, into an empty place, every byte compared.

FOLDER/manifest.json        what the backup is, with the digests of the next two and of itself: written last
FOLDER/contents-TOKEN.tsv   every file of it: SHA-256, bytes, path
FOLDER/database-TOKEN.*     SQLite's online backup, or what pg_dump wrote
FOLDER/files, models        hard links where the file system is the same, else copies; what is there already stays
FOLDER/config.toml          the settings, as given

A file never changes once it is kept, so the next backup into the same folder copies what is new and removes what has
gone. It is whole at any moment: killed in between, the manifest names what it named before. The index is left out: a
start makes it from the database. Memory bound: the names of one 256th of the archive.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, Final

from dicomnode import __version__, verification
from dicomnode.errors import BackupError
from dicomnode.locks import Lock
from dicomnode.node import open_store
from dicomnode.settings import Config
from storage.copies import Kind
from storage.durable import replacing, reported, sync_folder
from storage.errors import StorageError
from storage.schema import REVISION
from storage.store import DATABASE, Store

FORMAT: Final = 1
MANIFEST, CONFIG = "manifest.json", "config.toml"
ATTEMPTS: Final = 5  # copies of the database, when something was deleted while its files were copied
PIECE: Final = 1 << 20
_NO_LINK: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES})
Report = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Item:
    """A file of a backup."""

    sha256: str
    size: int
    path: str  # relative to the root, and to the folder

    @property
    def line(self) -> str:
        return f"{self.sha256}\t{self.size}\t{self.path}\n"

    @classmethod
    def of(cls, line: str) -> "Item":
        """BackupError for a path that leads anywhere else."""
        sha256, size, path = line.rstrip("\n").split("\t")
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or parts.parts[0] not in {"files", "models"}:
            raise BackupError("the list of contents names a file outside of the archive")
        return cls(sha256, int(size), path)


# --- making one ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Attempt:
    """One state of the database, and the files that it names."""

    kind: Kind
    database: Item
    contents: Item
    files: int
    size: int
    copied: int  # files that were not there yet
    lost: tuple[str, ...]  # SOP Instance UIDs whose file the archive itself has lost


def back_up(
    store: Store, root: Path, folder: Path, report: Report, config_file: Path | None, *, copy: bool
) -> dict[str, Any]:
    """Make the folder a backup of the archive as it is now. `copy`: even where files could be linked.

    BackupError, StorageError: the backup that was there is still whole.
    """
    _check_apart(root, folder)
    with reported("backup folder"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with Lock(folder / "backup.lock", "a backup"):
        _check_ours(folder)
        made = _attempts(store, root, folder, report, copy=copy)
        _keep_config(folder, config_file)
        _write_manifest(folder, made, config_file)
        removed = _tidy(folder, made)
    return {
        "folder": str(folder),
        "database": made.kind,
        "files": made.files,
        "bytes": made.size,
        "copied": made.copied,
        "removed": removed,
        "lost": list(made.lost),
    }


def _check_apart(root: Path, folder: Path) -> None:
    one, other = root.resolve(), folder.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise BackupError("the backup must be outside of the archive, and the archive outside of it")


def _check_ours(folder: Path) -> None:
    """A folder with anything else in it is not taken for a backup: files in it would be removed."""
    others = {path.name for path in folder.iterdir()} - {"backup.lock"}
    if others and not (folder / MANIFEST).is_file() and not all(name.startswith(_OWN) for name in others):
        raise BackupError(f"{folder} holds something else than a backup")


_OWN: Final = ("files", "models", "database-", "contents-", ".")


def _attempts(store: Store, root: Path, folder: Path, report: Report, *, copy: bool) -> _Attempt:
    """Again when something was deleted meanwhile: the next state does not name it."""
    copied = 0
    for _ in range(ATTEMPTS):
        made = _attempt(store, root, folder, report, copy=copy)
        copied += made.copied
        if not any(_has_changed(store, uid) for uid in made.lost):
            break
    return _Attempt(**{**vars(made), "copied": copied})


def _has_changed(store: Store, uid: str) -> bool:
    """Whether an instance whose file was not found is gone, or has another file."""
    row = store.catalog.instance(uid)
    return row is None or store.files.has(row.path)


def _attempt(store: Store, root: Path, folder: Path, report: Report, *, copy: bool) -> _Attempt:
    token, lost, total, done, size, copied = secrets.token_hex(6), [], store.catalog.count(), 0, 0, 0
    list_path = folder / f"contents-{token}.tsv"
    with store.copies.copied(folder, f"database-{token}") as database, list_path.open("w", encoding="utf-8") as listed:
        report("database", 1, 1, "")
        for named in database.named():
            item = Item(named.sha256, named.size, named.path)
            try:
                copied += _put(root / item.path, folder / item.path, item.size, copy=copy)
            except FileNotFoundError:
                lost.append(named.sop_instance_uid)
                continue
            listed.write(item.line)
            done, size = done + 1, size + item.size
            report("files", done, max(total, done), "")
        for item in _models(root):
            copied += _put(root / item.path, folder / item.path, item.size, copy=copy)
            listed.write(item.line)
            size += item.size
        listed.flush()
        os.fsync(listed.fileno())
    sync_folder(folder)
    return _Attempt(database.kind, _digest(database.file), _digest(list_path), done, size, copied, tuple(lost))


def _models(root: Path) -> Iterator[Item]:
    for path in sorted((root / "models").glob("[!.]*/**/*")):
        if path.is_file():
            found = _digest(path)
            yield Item(found.sha256, found.size, path.relative_to(root).as_posix())


def _put(source: Path, target: Path, size: int, *, copy: bool) -> int:
    """Link or copy a file unless one of its size is there; how many were new. FileNotFoundError."""
    with suppress(FileNotFoundError):
        if target.stat().st_size == size:
            return 0
        target.unlink()
    with reported("backup"):
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if copy or not _linked(source, target):
        _copy(source, target)
    return 1


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _NO_LINK:
            return False
        raise
    return True


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as file, reported("backup"), replacing(target) as scratch, scratch.open("wb") as out:
        shutil.copyfileobj(file, out, PIECE)


def _keep_config(folder: Path, config_file: Path | None) -> None:
    """It holds tokens and passwords: its owner's alone."""
    if config_file is None:
        return
    with reported("settings"):
        content = config_file.read_bytes()
        with replacing(folder / CONFIG) as scratch:
            scratch.touch(0o600)
            scratch.write_bytes(content)


def _write_manifest(folder: Path, made: _Attempt, config_file: Path | None) -> None:
    content = {
        "format": FORMAT,
        "program": __version__,
        "schema": REVISION,
        "made_at": datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds"),
        "kind": made.kind,
        "database": vars(made.database),
        "contents": vars(made.contents),
        "files": made.files,
        "bytes": made.size,
        "lost": list(made.lost),
        "config": config_file is not None,
    }
    for path in (*_folders(folder / "files"), *_folders(folder / "models")):
        with reported("backup"):
            sync_folder(path)
    with reported("backup manifest"), replacing(folder / MANIFEST) as scratch:
        scratch.write_text(json.dumps(content | {"checksum": _sum(content)}, indent=1))


def _folders(top: Path) -> Iterator[Path]:
    return (Path(folder) for folder, _, _ in os.walk(top))


def _sum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _tidy(folder: Path, made: _Attempt) -> int:
    """Remove what the manifest no longer names; how many files of the archive that were."""
    current = {made.database.path, made.contents.path}
    for path in (*folder.glob("database-*"), *folder.glob("contents-*")):
        if path.name not in current:
            path.unlink(missing_ok=True)
    removed = 0
    kept = {prefix: set(paths) for prefix, paths in _by_prefix(folder / made.contents.path)}
    for path in _archive_files(folder):
        name = path.relative_to(folder).as_posix()
        if name not in kept.get(_prefix(name), ()):
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _archive_files(folder: Path) -> Iterator[Path]:
    return (path for top in ("files", "models") for path in (folder / top).rglob("*") if path.is_file())


def _prefix(path: str) -> str:
    return path[: len("files/00")]


def _by_prefix(contents: Path) -> Iterator[tuple[str, list[str]]]:
    with contents.open(encoding="utf-8") as lines:
        for prefix, items in groupby((Item.of(line).path for line in lines), key=_prefix):
            yield prefix, list(items)


# --- giving one back -------------------------------------------------------------------------------------------------


def restore(folder: Path, config: Config, report: Report, *, dry_run: bool = False) -> dict[str, Any]:
    """Make an empty root, and an empty database, what the backup holds. `dry_run`: only read all of it.

    BackupError, StorageError: what had been written is removed again; a PostgreSQL database is left as it was.
    """
    manifest = _manifest(folder)
    _check_fits(manifest, config)
    database, contents = (Item(**manifest[name]) for name in ("database", "contents"))
    for item in (database, contents):
        _check(item, _digest(folder / item.path))
    root = config.root
    summary = {
        "root": str(root),
        "made_at": manifest["made_at"],
        "files": manifest["files"],
        "bytes": manifest["bytes"],
    }
    if dry_run:
        _transfer(folder, contents, None, report)
        return summary | {"dry_run": True, "lost": manifest["lost"]}
    _check_empty(config)
    try:
        _transfer(folder, contents, root, report)
        _give_back(folder, database, config, has_config=bool(manifest["config"]))
        _prove(config, manifest, report)
    except BaseException:
        _clear(root)
        raise
    return summary | {"dry_run": False, "lost": manifest["lost"]}


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        stated = content.pop("checksum")
    except FileNotFoundError:
        raise BackupError(f"{folder} holds no backup: there is no {MANIFEST}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BackupError(f"the backup is damaged: {MANIFEST} cannot be read") from None
    if stated != _sum(content):
        raise BackupError(f"the backup is damaged: the checksum of {MANIFEST} is wrong")
    if content["format"] != FORMAT or content["schema"] > REVISION:
        raise BackupError("the backup was made by a newer program")
    return dict(content)


def _check_fits(manifest: dict[str, Any], config: Config) -> None:
    wanted: Kind = "postgresql" if config.storage.url.startswith("postgresql") else "sqlite"
    if manifest["kind"] != wanted:
        raise BackupError(f"the backup is of {manifest['kind']}, and storage.url names {wanted}")
    if wanted == "sqlite" and config.storage.url:
        raise BackupError("storage.url names a file of its own: restore into the root, without it")


def _check(item: Item, found: Item) -> None:
    if (item.sha256, item.size) != (found.sha256, found.size):
        words = f"{found.size} bytes instead of {item.size}" if found.size != item.size else "other bytes than it had"
        raise BackupError(f"the backup is damaged: {item.path}: {words}")


def _digest(path: Path) -> Item:
    """A file as it is, by its name. BackupError when it is not there."""
    with _read(path) as file:
        digest = hashlib.file_digest(file, "sha256")
    return Item(digest.hexdigest(), path.stat().st_size, path.name)


def _read(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise BackupError(f"the backup is damaged: {path.name}: {error.strerror}") from error


def _check_empty(config: Config) -> None:
    """The root is made where it is missing."""
    root = config.root
    with reported("root folder"):
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise BackupError(f"{root} is not empty: restore into a new folder")
    if config.storage.url:
        with Store.fresh(config.storage.url):
            pass


def _transfer(folder: Path, contents: Item, root: Path | None, report: Report) -> None:
    """Read every file, compare it, and write it below the root."""
    with (folder / contents.path).open(encoding="utf-8") as lines:
        total = sum(1 for _ in lines)
    with (folder / contents.path).open(encoding="utf-8") as lines:
        for number, item in enumerate(map(Item.of, lines), start=1):
            _check(item, _digest(folder / item.path) if root is None else _written(folder, item, root))
            report("files", number, total, "")


def _written(folder: Path, item: Item, root: Path) -> Item:
    digest, size, target = hashlib.sha256(), 0, root / item.path
    with _read(folder / item.path) as file, reported("restore"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as scratch, scratch.open("wb") as out:
            while piece := file.read(PIECE):
                digest.update(piece)
                size += len(piece)
                out.write(piece)
    return Item(digest.hexdigest(), size, item.path)


def _give_back(folder: Path, database: Item, config: Config, *, has_config: bool) -> None:
    """The database last: a root without one is no archive yet."""
    root = config.root
    for path in (*_folders(root / "files"), *_folders(root / "models"), root):
        with reported("restore"):
            sync_folder(path)
    if has_config:
        _keep_config(root, folder / CONFIG)
    if config.storage.url:
        with Store.fresh(config.storage.url) as fresh:
            fresh.restore(folder / database.path)
    else:
        _check(database, _written_as(folder / database.path, root / DATABASE, database))


def _written_as(source: Path, target: Path, item: Item) -> Item:
    _copy(source, target)
    found = _digest(target)
    return Item(found.sha256, found.size, item.path)


def _prove(config: Config, manifest: dict[str, Any], report: Report) -> None:
    """Open it, migrate it, and look whether rows and files say the same. Nobody holds a job any more."""
    with open_store(config) as store:
        store.jobs.release("", counts=False)
        found = verification.verify(store, report, time.time(), contents=False)
        expected = set(manifest["lost"])
        wrong = [each.disagreement for each in found if each.is_grave and each.disagreement.subject not in expected]
        if wrong:
            raise BackupError(f"the restored archive is not sound: {wrong[0].kind}, and {len(wrong) - 1} more")


def _clear(root: Path) -> None:
    """Leave the place as it was: empty."""
    for path in _entries(root):
        with suppress(OSError, StorageError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _entries(root: Path) -> Iterable[Path]:
    with suppress(OSError):
        return list(root.iterdir())
    return []
