"""Model sets: a folder in, a model that the store knows and every process can load out."""

import logging
import shutil
from pathlib import Path

from dicomnode.errors import ConfigError
from dicomnode.locks import Lock
from dicomnode.settings import ModelSettings
from encoder import checkpoint
from encoder.anatomy import VOCABULARY
from encoder.choice import chosen
from encoder.errors import CheckpointError
from encoder.pipeline import SHIPPED, ModelCard
from storage.records import Generation, Model
from storage.store import Store

INSTALLING = "models.lock"  # under the root: of nodes that come up together one copies, the others find the copy
INSTALL_S = 60.0  # that a copy may take
SLACK = "slack"  # beside the thresholds, one for each anatomy
log = logging.getLogger(__name__)


def install(store: Store, folder: Path) -> Model:
    """Copy a model set under the store's root, durable, and describe it. ConfigError when it is none."""
    model = describe(folder)
    with Lock(store.root / INSTALLING, "a program that installs a model", wait_s=INSTALL_S):
        _sweep(store.models)
        _copy(folder, store.root / model.path)
    return model


def _copy(folder: Path, target: Path) -> None:
    if target.is_dir():
        return
    try:
        checkpoint.copy_model(folder, target)
    except CheckpointError as error:
        raise ConfigError(f"no usable model in {folder}: {error}") from error


def _sweep(folder: Path) -> None:
    """Remove what a process that was killed left of a copy or a removal: nobody else is making a copy now."""
    for path in [*folder.glob("*.part-*"), *folder.glob(".*.removed")]:
        shutil.rmtree(path, ignore_errors=True)


def remove(store: Store, model: Model) -> None:
    """Remove a model set under the store's root that no generation is of any more; only what `install` put there."""
    folder = store.root / model.path
    used = {generation.model.path for generation in store.generations.all()}
    if model.path in used or folder.parent != store.models or not folder.is_dir():
        return
    going = folder.with_name(f".{folder.name}.removed")  # half a folder must never look installed
    shutil.rmtree(going, ignore_errors=True)
    folder.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def prove(folder: Path) -> ModelCard:
    """What a model set is, after it was loaded and run on drawn films; loads torch: for commands, not for the node.

    ConfigError when there is none, CheckpointError when it is no good.
    """
    from encoder import plugin

    if not (folder / "encoder.json").is_file():
        raise ConfigError(f"no usable model in {folder}: encoder.json is not there")
    return plugin.check(folder)


def check_runtime(settings: ModelSettings) -> None:
    """ConfigError when what is to run the models cannot be had here: every worker would die of it."""
    try:
        chosen(settings.runtime, settings.device)
    except CheckpointError as error:
        raise ConfigError(f"models.runtime: {error}") from error


def _check(store: Store, live: Generation) -> None:
    """ConfigError when the live generation's model set is not whole: nothing could be indexed or asked."""
    try:
        found = checkpoint.verify(store.root / live.model.path).model_id
    except CheckpointError as error:
        raise ConfigError(f"the model of the live generation, {live.model.path}, is unusable: {error}") from error
    if found != live.model.id:
        raise ConfigError(f"{live.model.path} holds model {found}, not the live generation's {live.model.id}")


def describe(folder: Path) -> Model:
    """The model of a folder, without copying it. ConfigError when it is none."""
    try:
        card = checkpoint.describe(folder)
    except CheckpointError as error:
        raise ConfigError(f"no usable model in {folder}: {error}") from error
    return Model(
        id=card.model_id,
        path=str(Path("models") / card.model_id),
        dim=card.dim,
        projections=card.projections,
        regions=VOCABULARY.names,
        thresholds={SLACK: card.unlike_slack, **{str(k): limit for k, limit in card.unlike_thresholds.items()}},
    )


def ensure_live(store: Store, folder: str) -> Generation:
    """The live generation; on a new archive, one of the configured model set, or of the shipped one."""
    live = store.generations.live()
    if live is not None:
        _check(store, live)
        if folder and describe(Path(folder)).id != live.model.id:
            log.warning(
                "the archive is indexed with model %s, not the configured one: `reindex --model`", live.model.id
            )
        return live
    return store.generations.ensure_live(install(store, Path(folder) if folder else SHIPPED))
