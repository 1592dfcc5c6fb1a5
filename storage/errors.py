"""What can go wrong between the node and what it keeps.

StorageError
├── StorageFull             no room left: disk, quota or file size limit
├── FileError               any other failure to read, write or sync a file
├── DatabaseError           the database refused, or has another schema than this program
│   └── DatabaseAway            it cannot be reached, or is in other hands for too long: later it may do
├── LeaseLost               work is no longer held by who tries to end it
├── GenerationError         a step that this generation's state does not allow
│   └── GenerationIncomplete    not every instance has a finished job in it
└── VectorError             vectors of another dimension, projection or model than the place they meet
    └── SnapshotDamaged     an index file that disagrees with its manifest or with SQL; it is rebuilt
"""


class StorageError(Exception):
    """Root of every error the storage package raises on purpose."""


class StorageFull(StorageError):
    """No room left on the device, in the quota, or under the file size limit."""


class FileError(StorageError):
    """A file could not be read, written or synced, for another reason than room."""


class DatabaseError(StorageError):
    """The database refused, cannot be reached, or its schema is not the one of this program."""


class DatabaseAway(DatabaseError):
    """The database cannot be reached, read or written now. Nothing is wrong with what was asked of it."""


class LeaseLost(StorageError):
    """The work was given to somebody else, ended, or started over; what was made for it is thrown away."""


class GenerationError(StorageError):
    """This step is not allowed in the generation's present state."""


class GenerationGone(GenerationError):
    """There is none of that id: never, or not any more."""


class GenerationIncomplete(GenerationError):
    """Instances without a finished job in the generation: how many of how many."""

    def __init__(self, generation_id: int, unfinished: int, instances: int) -> None:
        super().__init__(f"generation {generation_id}: {unfinished} of {instances} instances are not finished")
        self.unfinished = unfinished
        self.instances = instances


class VectorError(StorageError):
    """Vectors that must not be compared: another dimension, projection or model."""


class SnapshotDamaged(VectorError):
    """An index file that disagrees with its manifest or with SQL."""
