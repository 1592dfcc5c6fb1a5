"""UIDs: made here as UUID-derived 2.25. (PS3.5 B.2), checked where a peer's come in (PS3.5 9.1)."""

import re
import uuid
from collections.abc import Callable
from typing import Final

from dicomnode import __version__

MAXIMUM_LENGTH: Final = 64  # PS3.5 9.1
IMPLEMENTATION_CLASS_UID: Final = "2.25.117009114233349561313969202389374289660"  # PS3.7 D.3.3.2, one for every release
IMPLEMENTATION_VERSION_NAME: Final = f"DICOMNODE_{__version__}"[:16]  # SH, at most 16 characters

# Leading zeros of a component are forbidden (PS3.5 9.1) and seen in the wild: tolerated on read, never written.
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*")


def new_uid(make: Callable[[], uuid.UUID] = uuid.uuid4) -> str:
    """A fresh UID, 2.25. and the decimal UUID; `make` draws the UUID."""
    return f"2.25.{make().int}"


def derived_uid(*parts: str) -> str:
    """The same UID for the same parts: 2.25. and a name-based UUID (RFC 9562 5.5), for objects that must repeat."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, chr(0).join(parts)).int}"


def is_uid(text: str) -> bool:
    """Whether a peer's text can be a UID: digits and single dots, 64 characters at most. No padding is stripped."""
    return len(text) <= MAXIMUM_LENGTH and _UID.fullmatch(text) is not None
