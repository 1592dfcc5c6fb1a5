"""Quiet libraries: what pydicom and pynetdicom say of a peer's values stays in, for they quote them (invariant 10)."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom import config as pydicom_config
from pynetdicom import _config as pynetdicom_config


def quiet_libraries() -> None:
    """Once a process, before anything of a peer is read.

    pynetdicom logs query identifiers, with patient names, unless told not to, and spends time on logging PDUs; pydicom
    warns of every odd value it reads. What it writes is still checked.
    """
    pynetdicom_config.LOG_REQUEST_IDENTIFIERS = False
    pynetdicom_config.LOG_RESPONSE_IDENTIFIERS = False
    pynetdicom_config.LOG_HANDLER_LEVEL = "none"
    warnings.filterwarnings("ignore", module="pydicom")
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Read a peer's data set without its oddities becoming warnings.

    Filters are the process's: threads that overlap here may leave pydicom quiet, never louder.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")
        yield
