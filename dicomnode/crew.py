"""Workers without ports: a Config in, indexers on an archive that other machines receive for out.

They find work by looking once a second; nobody wakes them. Any number may run beside nodes on the same database and
root, each under a name of its own.
"""

from dicomnode import models
from dicomnode.locks import Lock
from dicomnode.node import INGEST_NICENESS, open_store
from dicomnode.settings import Config
from dicomnode.workers.indexer import IndexerPlan
from dicomnode.workers.pool import Pool


class Crew:
    """`work`: a pool of indexers, started, watched and ended as those of a node are."""

    def __init__(self, config: Config) -> None:
        self._config = config
        name = f"workers of the name {config.node}"
        self._lock = Lock(config.root / f"work.{config.node}.lock", name)

    def start(self) -> None:
        """Open and start. ConfigError when the models' runtime cannot be had, DicomNodeError when the name is taken."""
        config = self._config
        models.check_runtime(config.models)
        self._lock.__enter__()
        self._store = open_store(config)
        owner = f"work@{config.node}({config.root.resolve()})"
        plan = IndexerPlan(
            config.root,
            config.storage.url,
            owner,
            config.ingest,
            config.log,
            models=config.models,
            niceness=INGEST_NICENESS,
        )
        self._pool = Pool(self._store, plan, config.ingest.workers)
        self._pool.start()

    def stop(self) -> None:
        """Let each finish the film in hand; what is left is anybody's."""
        self._pool.stop()
        self._store.close()
        self._lock.__exit__(None, None, None)
