"""Settings of the port in, pynetdicom's application entity out."""

from collections.abc import Callable

from pynetdicom import AE

from dicomnode import uids
from dicomnode.settings import DimseSettings


class Entity(AE):  # type: ignore[misc]
    """One of which associations elsewhere take places, too."""

    elsewhere: Callable[[], int]

    @property
    def maximum_associations(self) -> int:
        """How many there may be in this process."""
        return int(self._maximum_associations) - self.elsewhere()

    @maximum_associations.setter
    def maximum_associations(self, value: int) -> None:
        self._maximum_associations = value


def entity_of(settings: DimseSettings, elsewhere: Callable[[], int] = lambda: 0) -> Entity:
    """`elsewhere`: how many associations other processes have."""
    entity = Entity(ae_title=settings.ae_title)
    entity.elsewhere = elsewhere
    entity.maximum_associations = settings.maximum_associations
    entity.maximum_pdu_size = settings.maximum_pdu
    entity.acse_timeout = settings.acse_timeout_s
    entity.dimse_timeout = settings.network_timeout_s
    entity.network_timeout = settings.network_timeout_s
    entity.implementation_class_uid = uids.IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = uids.IMPLEMENTATION_VERSION_NAME
    return entity
